"""Where HTTP is served: sockets, TLS, the connections on them, and how they end."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from email.utils import formatdate
from typing import TYPE_CHECKING

from uvicorn.config import Config
from uvicorn.server import ServerState

from somactl.errors import ConfigurationError
from somactl.serve.context import Address, Limits
from somactl.serve.handshake import Doorman
from somactl.serve.limits import Gate, LimitedProtocol

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from somactl.serve.log import Log

BACKLOG = 1024
KEPT_BACK = 256
"""Descriptors that are not for connections: stores, the prover, files."""
QUIET_SECONDS = 0.25
"""For how long, once draining, a connection that idles may still bring a request that was on its way."""


def bind(address: Address) -> socket.socket:
    """A socket that listens there. Raises ConfigurationError where that cannot be."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address.host, address.port))
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as exc:
        listening.close()
        raise cannot_listen(address, exc) from None
    return listening


def cannot_listen(address: Address, exc: OSError) -> ConfigurationError:
    hints = {
        errno.EADDRINUSE: "stop the other process, or name another port; 0 is one that is free",
        errno.EACCES: "name a port from 1024 on",
        errno.EADDRNOTAVAIL: "name an address of this machine",
    }
    why = os.strerror(exc.errno).lower() if isinstance(exc.errno, int) and exc.errno > 0 else str(exc)
    return ConfigurationError(
        f"cannot listen on {address}: {why}",
        hint=hints.get(exc.errno or 0, "name an address of this machine"),
    )


def address_of(listening: socket.socket) -> Address:
    name = listening.getsockname()
    return Address(name[0], name[1]) if isinstance(name, tuple) else Address(f"unix:{name}", 0)


def room(limits: Limits) -> int:
    """How many connections there can be: so many as descriptors are left for, once their limit is raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.connections + KEPT_BACK
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(limits.connections, soft - KEPT_BACK))


class Listener:
    """Serves an application. `tls` is for new connections, and may be replaced."""

    def __init__(self, app: ASGIApp, limits: Limits, log: Log) -> None:
        self.gate = Gate(limits, log)
        self.tls: ssl.SSLContext | None = None
        self._sockets: list[socket.socket] = []
        self._log = log
        self._servers: list[asyncio.Server | Doorman] = []
        self._state = ServerState()
        self._config = Config(
            app,
            http=LimitedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=limits.idle_seconds,  # type: ignore[arg-type]
        )
        self._config.load()
        self._dates: asyncio.TimerHandle | None = None

    @property
    def addresses(self) -> list[Address]:
        return [address_of(each) for each in self._sockets]

    @property
    def requests(self) -> int:
        """How many were answered."""
        return self._state.total_requests

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Serve on sockets that listen."""
        loop = asyncio.get_running_loop()
        self._sockets = list(sockets)
        self._date()
        for each in self._sockets:
            if self.tls is None:
                self._servers.append(await loop.create_server(self._speaker, sock=each, backlog=BACKLOG))
            else:
                self._servers.append(Doorman(each, self.gate, self._encryption, self._speaker))

    def _encryption(self) -> ssl.SSLContext:
        assert self.tls is not None
        return self.tls

    def _speaker(self) -> LimitedProtocol:
        return LimitedProtocol(self.gate, self._config, self._state)

    def _date(self) -> None:
        """The header that every answer has, made anew each second."""
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        self._dates = asyncio.get_running_loop().call_later(1.0, self._date)

    def drain(self) -> None:
        """From now on each answer is the last of its connection."""
        self.gate.draining = True
        for each in self.gate.connections():
            each.drain()

    async def stop(self, grace: float) -> int:
        """Take no more connections, wait for what is under way. Returns how many were cut off."""
        self.drain()
        for server in self._servers:
            server.close()
        deadline = asyncio.get_running_loop().time() + grace
        with suppress(TimeoutError):
            await asyncio.wait_for(self.gate.vacated.wait(), min(QUIET_SECONDS, grace))
        for connection in list(self._state.connections):
            connection.shutdown()
        with suppress(TimeoutError):
            left = deadline - asyncio.get_running_loop().time()
            await asyncio.wait_for(self.gate.vacated.wait(), max(0.0, left))
        return await self._cut_off()

    async def _cut_off(self) -> int:
        tasks = list(self._state.tasks)
        for connection in self.gate.connections():
            connection.evict()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._dates is not None:
            self._dates.cancel()
        return len(tasks)

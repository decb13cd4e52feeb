"""What systemd is told (`sd_notify`), and the sockets that it hands over (`LISTEN_FDS`), where it is there.

Both are protocols of a few lines, which systemd promises to keep: sd_notify(3), sd_listen_fds(3).
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress
from typing import NamedTuple

from somactl.errors import ConfigurationError

FIRST_DESCRIPTOR = 3
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Handed(NamedTuple):
    """A socket that systemd has bound, and the name that its unit gives it (`FileDescriptorName=`)."""

    name: str
    listening: socket.socket

    @property
    def is_grpc(self) -> bool:
        """Whether it is for gRPC; any other is for HTTP."""
        return self.name == "grpc"


class Systemd:
    """What the environment says of systemd, which no child of this process is to inherit.

    names     of the sockets that it has bound, in their order
    watchdog  seconds in which it wants a sign of life; 0: it wants none
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        told = {name: environ.pop(name) for name in VARIABLES if name in environ}
        self._socket = told.get("NOTIFY_SOCKET", "")
        self.names: list[str] = []
        if told.get("LISTEN_PID") == str(os.getpid()):
            names = told.get("LISTEN_FDNAMES", "").split(":")
            inherited = _number(told.get("LISTEN_FDS", "0"))
            self.names = (names + [""] * inherited)[:inherited]
        watched = told.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog = _number(told.get("WATCHDOG_USEC", "0")) / 1e6 if watched else 0.0

    def sockets(self) -> list[Handed]:
        """Those that systemd has bound. Raises ConfigurationError for what is no socket that listens."""
        return [
            Handed(name, _listening(descriptor))
            for descriptor, name in enumerate(self.names, start=FIRST_DESCRIPTOR)
        ]

    def notify(self, *lines: str) -> None:
        """`notify("READY=1", "STATUS=...")`; what systemd does not hear is lost."""
        if not self._socket:
            return
        address = "\0" + self._socket[1:] if self._socket.startswith("@") else self._socket
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifying:
            notifying.setblocking(False)
            notifying.sendto("\n".join(lines).encode(), address)


def _listening(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        found = socket.socket(fileno=descriptor)
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        listens = 0
    if not listens:
        raise ConfigurationError(
            f"descriptor {descriptor}, which systemd passed on, is no socket that listens",
            hint="have the socket unit say ListenStream=",
        )
    found.setblocking(False)
    return found


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0

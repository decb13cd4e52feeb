"""`somactl serve` as a whole: what is opened, in which order, and how all of it ends within the grace.

The task that runs `serve` is cancelled to end it: it drains, and returns. Cancelled again, it ends at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from somactl.config import Settings, inherited
from somactl.errors import ConfigurationError, SomactlError
from somactl.runtime import open_server
from somactl.serve import http
from somactl.serve.access import Access
from somactl.serve.certificates import tls_context
from somactl.serve.context import Address, Face, ServeContext, ServeOptions
from somactl.serve.doors import Doors
from somactl.serve.listener import Listener, room
from somactl.serve.log import Log
from somactl.serve.metrics import register
from somactl.serve.model import Found, Round, WatchOptions
from somactl.serve.sockets import Sockets, open_sockets
from somactl.serve.state import State
from somactl.serve.supervisor import Supervisor
from somactl.serve.systemd import Systemd
from somactl.store.metered import Observer
from somactl.telemetry.registry import LatencyHistograms

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

PROVER_SECONDS = 2.0
"""What of the grace is kept for the prover to close its connections."""


@dataclass
class Ended:
    """What a server did until it ended.

    cut_off  requests that the grace was too short for
    """

    requests: int = 0
    cut_off: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    prover_restarts: int = 0
    seconds: float = 0.0


async def serve(
    settings: Settings,
    watch: WatchOptions,
    options: ServeOptions,
    systemd: Systemd,
    log: Log,
    announce: Callable[[Address, Address | None], None],
) -> Ended:
    """Serve until the task is cancelled. Raises ConfigurationError before anything is served."""
    async with AsyncExitStack() as stack:
        sockets = open_sockets(options, systemd, stack)
        running = await stack.enter_async_context(_running(settings, watch, options, log))
        stack.enter_context(running.reloading())
        await running.listen(sockets)
        announce(running.listener.addresses[0], running.grpc.address if running.grpc else None)
        systemd.notify("READY=1")
        try:
            await running.until_cancelled(systemd)
        except asyncio.CancelledError:
            systemd.notify("STOPPING=1")
        return await running.drain()
    raise AssertionError("the stack swallows nothing")


class _Running:
    """All that runs, once it is opened."""

    def __init__(self, context: ServeContext, state: State, supervisor: Supervisor) -> None:
        self.context = context
        self.state = state
        self.supervisor = supervisor
        self.grpc: Face | None = None
        self.began = time.monotonic()
        options = context.options
        limits = replace(options.limits, connections=room(options.limits))
        self.listener = Listener(http.app(context, _routes(context)), limits, context.log)
        self.context.refusals = self.listener.gate.refused
        if options.tls is not None:
            self._encrypt()
            context.reloads.append(self._encrypt)
        context.reloads.append(self._reload_tokens)

    def _encrypt(self) -> None:
        assert self.context.options.tls is not None
        self.listener.tls = tls_context(self.context.options.tls)

    def _reload_tokens(self) -> None:
        access = self.context.access
        if not access.reload():
            raise ConfigurationError(access.problem or "the file of tokens cannot be used")

    async def listen(self, sockets: Sockets) -> None:
        if self.context.options.grpc is not None:
            from somactl.serve import rpc

            self.grpc = await rpc.serve(self.context, self.context.options.grpc, sockets.grpc)
        await self.listener.start(sockets.http)
        self.supervisor.start()

    async def until_cancelled(self, systemd: Systemd) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tell_changes())
            tasks.create_task(self.supervisor.failed())
            if systemd.watchdog:
                tasks.create_task(_show_life(systemd))

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """SIGHUP reads tokens and certificates anew; it never ends the process, while it drains neither."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    def _reload(self) -> None:
        failed = False
        for each in self.context.reloads:
            try:
                each()
            except SomactlError as error:  # what was valid stays
                failed = True
                self.context.log.event("not reloaded", why=error.message)
        if not failed:
            self.context.log.event("reloaded")

    async def _tell_changes(self) -> None:
        """A line of the log for each change of what health says."""
        seen, last = self.state.changes, None
        while True:
            report = self.state.health()
            reasons = sorted({each.cause for each in report.reasons})
            said = (report.ok, report.degraded, reasons)
            if said != last:
                self.context.log.event(
                    "health",
                    ok=report.ok,
                    degraded=report.degraded,
                    reasons=reasons,
                    why=report.reasons[0].message if report.reasons else None,
                    dark=report.dark or None,
                )
            last, seen = said, await self.state.changed(seen)

    async def drain(self) -> Ended:
        """Unready first, then what is under way, then the prover: all within the grace."""
        options = self.context.options
        deadline = time.monotonic() + options.grace
        self.context.log.event("draining", grace=options.grace)
        self.state.drain()
        self.listener.drain()
        if self.grpc is not None:
            await self.grpc.drain()
        await asyncio.sleep(min(options.pause, options.grace))
        left = max(0.0, deadline - time.monotonic() - min(PROVER_SECONDS, options.grace / 4))
        rpc = self.grpc.stop(left) if self.grpc is not None else asyncio.sleep(0, 0)
        # Orders end between two batches, so that those who wait for them are answered.
        orders = self.context.doors.stop(left / 2)
        requests, calls, _ = await asyncio.gather(self.listener.stop(left), rpc, orders)
        cut_off = requests + calls
        await self.supervisor.stop(max(0.0, deadline - time.monotonic()))
        self.context.log.event("ended", requests=self.listener.requests, cut_off=cut_off or None)
        return Ended(
            requests=self.listener.requests,
            cut_off=cut_off,
            refused=dict(self.listener.gate.refused),
            prover_restarts=self.state.health().prover.restarts,
            seconds=time.monotonic() - self.began,
        )


async def _show_life(systemd: Systemd) -> None:
    """Tell systemd's watchdog that the event loop goes on."""
    while True:
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(systemd.watchdog / 3)


@asynccontextmanager
async def _running(
    settings: Settings, watch: WatchOptions, options: ServeOptions, log: Log
) -> AsyncIterator[_Running]:
    """Everything but the sockets, closed again in whatever way it ends."""
    inherited().setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # it would speak up at each start of the prover
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)  # http.RequestLog tells of bugs
    registry = CollectorRegistry()
    latencies = LatencyHistograms(registry)
    state = State(watch)
    observers = {name: latencies.of(name) for name in watch.namespaces}
    state.listeners.append(lambda told: _note_reads(told, observers))
    access = Access.open(options.tokens, log)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(open_server(settings))
        doors = Doors(server, watch.namespaces, access, log, observers=observers.__getitem__)
        stack.push_async_callback(doors.stop, 0.0)
        context = ServeContext(
            state=state,
            options=options,
            log=log,
            namespaces=watch.namespaces,
            dark=watch.dark,
            server=server,
            access=access,
            doors=doors,
            registry=registry,
        )
        register(context)
        supervisor = Supervisor(
            settings, watch, state, log=lambda said, facts: log.event("prover", said=said, **facts)
        )
        stack.push_async_callback(supervisor.stop, 0.0)
        yield _Running(context, state, supervisor)


def _note_reads(told: Found | Round, observers: Mapping[str, Observer]) -> None:
    if isinstance(told, Round):
        for seconds in told.reads:
            observers[told.namespace]("read", seconds)


def _routes(context: ServeContext) -> list[BaseRoute]:
    """What other modules serve over HTTP."""
    from somactl.serve import page, rest

    return [*rest.routes(context), *page.routes(context)]

"""Whether the stores of a namespace answer: asked once an interval, beside all else that goes on."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from somactl.errors import NamespaceNotFound, SomactlError, StoreTimeout
from somactl.serve.model import CACHE, Service
from somactl.store.cached import INITIALISING, CachedStore, View, cached
from somactl.store.contract import Head, Store

LEAST_PATIENCE, MOST_PATIENCE = 1.0, 3.0
"""Seconds that a store may take to say where it is."""
ATTEMPTS = 2
"""A store that answered before is down once it fails so often in a row."""
HURRIED = 3
"""A cache is slow once so many reads in a row took longer than a read waits for it."""
CANCEL_SECONDS = 0.1
"""How long a call that was cancelled is waited for."""

T = TypeVar("T")


class Pulse:
    """The stores of one namespace, as they answered last.

    head    where the authority is; None: it does not answer, or there is no such namespace
    gone    there is no such namespace
    marker  what the cache serves; None: nothing
    slow    what is wrong with a cache that answers, but too late for reads; None: nothing is
    """

    def __init__(self, store: Store, interval: float, read_timeout: float) -> None:
        self._pair: CachedStore | None = cached(store)
        self.authority: Store = store if self._pair is None else self._pair.authority
        self.services: dict[str, Service] = {}
        self.head: Head | None = None
        self.gone = False
        self.view: View | None = None
        self.slow: str | None = None
        self._patience = min(max(interval / 3, LEAST_PATIENCE), MOST_PATIENCE)
        self._read_timeout = read_timeout
        self._down = {name: asyncio.Event() for name in (self.authority.name, CACHE)}
        self._left: set[asyncio.Future[Any]] = set()

    def up(self, service: str) -> bool:
        """Whether it answered the last time; False where it was never asked."""
        known = self.services.get(service)
        return known is not None and known.up

    async def beat(self) -> list[Service]:
        """Ask each store where it is; the authority stands first."""
        asked = [self._ask(self.authority.name, self._truth)]
        if self._pair is not None:
            asked.append(self._ask(CACHE, self._copies))
        return list(await asyncio.gather(*asked))

    async def _ask(self, service: str, look: Callable[[], Coroutine[Any, Any, None]]) -> Service:
        detail: str | None = None
        for _ in range(ATTEMPTS if self.up(service) else 1):
            try:
                await self._within(look(), self._patience)
            except TimeoutError:
                detail = f"{service} did not answer within {self._patience:g} s"
            except SomactlError as exc:
                detail = told(exc)
            else:
                return self._told(Service(service, True))
        return self._told(Service(service, False, detail))

    def _told(self, service: Service) -> Service:
        self.services[service.service] = service
        down = self._down[service.service]
        if service.up:
            down.clear()
        else:
            down.set()
            if service.service == CACHE:
                self.view, self.slow = None, None
            else:
                self.head, self.gone = None, False
        return service

    async def _truth(self) -> None:
        try:
            self.head = await self.authority.head()
        except NamespaceNotFound:
            self.head, self.gone = None, True
        else:
            self.gone = False

    async def _copies(self) -> None:
        assert self._pair is not None
        cache = self._pair.cache
        for _ in range(HURRIED):
            try:
                self.view = await cache.find([], hurry=True)
            except StoreTimeout:
                continue
            self.slow = None
            return
        self.view = await cache.find([])
        self.slow = f"the cache answers, but not within the {self._read_timeout:g} s that a read waits for it"

    @property
    def marker(self) -> str | None:
        return self.view.marker if self.view is not None else None

    @property
    def serving(self) -> str | None:
        return self.view.serving if self.view is not None else None

    @property
    def blocked(self) -> bool:
        """Whether an `init` is at work on the cache, or died at work."""
        return (self.marker or "").startswith(INITIALISING)

    async def while_up(self, service: str, call: Coroutine[Any, Any, T], seconds: float | None = None) -> T:
        """The result of a call to `service`, for as long as that answers, and for `seconds` at most.

        Raises StoreTimeout.
        """
        try:
            return await self._within(call, seconds, self._down[service])
        except TimeoutError:
            raise StoreTimeout(f"{service} did not answer in time") from None

    async def _within(
        self, call: Coroutine[Any, Any, T], seconds: float | None, end: asyncio.Event | None = None
    ) -> T:
        """Raises TimeoutError after `seconds`, or at the `end`, however long cancelling the call takes."""
        task = asyncio.ensure_future(call)
        ended = [asyncio.ensure_future(end.wait())] if end is not None else []
        try:
            await asyncio.wait({task, *ended}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise TimeoutError
        finally:
            for each in ended:
                each.cancel()
            if not task.done():
                await self._cancel(task)

    async def _cancel(self, task: asyncio.Future[Any]) -> None:
        """A call that was cancelled closes its connection, and may wait for that as well."""
        task.cancel()
        self._left.add(task)
        task.add_done_callback(self._forget)
        await asyncio.wait({task}, timeout=CANCEL_SECONDS)

    def _forget(self, task: asyncio.Future[Any]) -> None:
        self._left.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that it is not reported


def told(error: SomactlError) -> str:
    """What a store's error says. Raises MemoryError where it is this process that has no memory left."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM):
            raise MemoryError from error
        cause = cause.__cause__ or cause.__context__
    return error.message

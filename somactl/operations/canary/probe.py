"""The probe: reads matrices of a store as a service does, times each read itself, and proves what it read."""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import Final

from somactl.core.canary_samples import AnySample, ArmName, Degradation, Doubt, Failure, Latency, Proof
from somactl.core.verdict import Tolerances
from somactl.errors import CorruptValue, EnvelopeError, KeyNotFound, NamespaceNotFound, SomactlError
from somactl.operations.canary.sources import Now
from somactl.store.contract import Entry, Store

READ_SECONDS: Final = 10.0
"""A read that takes longer is an error: a service would not have waited either."""
LIST_SECONDS: Final = 60.0
"""How often the keys are listed anew."""
MOST_KEYS: Final = 10_000


class Probe:
    """Reads one key a look, each in turn, in an order that is the same for both arms.

    opened: the store, which is never written to.
    """

    is_timed = True

    def __init__(
        self,
        arm: ArmName,
        opened: AbstractAsyncContextManager[Store],
        keys: str | None,
        tolerances: Tolerances,
        now: Now,
    ) -> None:
        self.arm = arm
        self.start = 0.0
        self.cursor: dict[str, float] = {}
        self._opened, self._match, self._tolerances, self._now = opened, keys, tolerances, now
        self._stack = AsyncExitStack()
        self._store: Store | None = None
        self._keys: list[str] = []
        self._listed_at = -float("inf")
        self._next = 0

    async def begin(self) -> None:
        with suppress(SomactlError, TimeoutError, _NoKeys):  # the first look tells
            await self._ready()

    async def look(self, now: float) -> list[AnySample]:
        """The latency of one read, what was proven of it, and whether the store is degraded."""
        try:
            store = await self._ready()
        except (NamespaceNotFound, _NoKeys) as exc:
            return [Doubt(t=now, arm=self.arm, what="no-series", detail=str(exc))]
        except (SomactlError, TimeoutError) as exc:
            return [self._failure(exc)]
        key = self._keys[self._next % len(self._keys)]
        self._next += 1
        samples = await self._read(store, key)
        return [*samples, Degradation(t=self._now(), arm=self.arm, on=bool(store.degradations))]

    async def close(self) -> None:
        await self._stack.aclose()

    async def _ready(self) -> Store:
        """The store, with keys to read of it."""
        if self._store is None:
            self._store = await self._stack.enter_async_context(self._opened)
        if not self._keys or self._now() >= self._listed_at + LIST_SECONDS:
            is_first = not self._keys
            self._keys = await self._list(self._store)
            self._listed_at = self._now()
            if is_first and self._keys:  # what opens connections is no read of a service under way
                await self._read(self._store, self._keys[0])
        if not self._keys:
            raise _NoKeys(f"no key matches {self._match!r}" if self._match else "there are no keys")
        return self._store

    async def _list(self, store: Store) -> list[str]:
        found: list[str] = []
        async with asyncio.timeout(READ_SECONDS):
            async for page in store.scan(self._match):
                found += [stat.key for stat in page]
                if len(found) >= MOST_KEYS:
                    break
        return sorted(found[:MOST_KEYS], key=lambda key: hashlib.blake2b(key.encode()).digest())

    async def _read(self, store: Store, key: str) -> list[AnySample]:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(READ_SECONDS):
                entry = await store.read(key)
        except KeyNotFound:  # it was deleted since it was listed
            self._listed_at = -float("inf")
            return []
        except CorruptValue:
            return [Proof(t=self._now(), arm=self.arm, psd="violated", key=key)]
        except (SomactlError, TimeoutError) as exc:
            return [self._failure(exc)]
        seconds = time.perf_counter() - began
        latency = Latency(t=self._now(), arm=self.arm, seconds=seconds)
        proof = await asyncio.to_thread(self._prove, entry)
        return [latency] if proof is None else [latency, proof]

    def _prove(self, entry: Entry) -> Proof | None:
        """What holds of the matrix; None for a value that is no density matrix."""
        from somactl.core.verification import check_envelope

        if entry.framed.kind != "rho":
            return None
        try:
            verdict = check_envelope(entry.data, entry.framed, self._tolerances)
        except EnvelopeError:
            return Proof(t=self._now(), arm=self.arm, psd="violated", key=entry.key)
        return Proof(
            t=self._now(),
            arm=self.arm,
            psd=verdict.status,
            trace_error=verdict.trace_error,
            key=entry.key,
        )

    def _failure(self, error: Exception) -> Failure:
        what = "timeout" if isinstance(error, TimeoutError) else type(error).__name__
        return Failure(t=self._now(), arm=self.arm, what=what)


class _NoKeys(Exception):
    """There is nothing to read."""

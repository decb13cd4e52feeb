"""The authority as the hybrid calls it: every answer and every failure is noted."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from somactl.errors import (
    CorruptValue,
    NotFound,
    OutcomeUnknown,
    SomactlError,
    StoreBusy,
    StoreUnavailable,
    TooFewReplicas,
    VersionConflict,
)
from somactl.store.hybrid.breaker import Breaker

T = TypeVar("T")


class AuthorityGuard:
    """Calls to the authority. Only reads of single keys go through the breaker: where the cache cannot answer
    and the authority is known to be down, they fail at once instead of each waiting for it. Whatever else is
    asked of the authority is tried, and tells whether it is back.

    failing  whether the last call found the authority unavailable, for whatever reason
    """

    def __init__(self, breaker: Breaker) -> None:
        self.breaker = breaker
        self.failing = False
        self._error: StoreUnavailable | None = None

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        try:
            answer = await call()
        except SomactlError as exc:
            self._note(exc)
            raise
        self.breaker.succeeded()
        self.failing = False
        return answer

    async def ask_if_up(self, call: Callable[[], Awaitable[T]]) -> T:
        """As `ask`; where the breaker is open, the error that opened it, at once."""
        trying = self.breaker.try_again()
        if not self.breaker.closed and not trying and self._error is not None:
            raise copy.copy(self._error) from self._error
        try:
            return await self.ask(call)
        finally:
            if trying:
                self.breaker.gave_up()  # means nothing once the call has come to an end

    async def pages(self, pages: AsyncIterator[T]) -> AsyncIterator[T]:
        """An iteration over the authority, each page noted as an answer."""
        try:
            async for page in pages:
                self.breaker.succeeded()
                yield page
        except SomactlError as exc:
            self._note(exc)
            raise

    def _note(self, error: SomactlError) -> None:
        self.failing = isinstance(error, OutcomeUnknown | StoreUnavailable)
        if isinstance(error, OutcomeUnknown):
            self.breaker.failed()
        elif isinstance(error, StoreUnavailable):
            if error.retryable and not isinstance(error, StoreBusy | TooFewReplicas):
                self._error = error
                self.breaker.failed()
        elif isinstance(error, NotFound | CorruptValue | VersionConflict):
            self.breaker.succeeded()
        # What is refused for itself, like a bad name, was perhaps refused without asking the server.

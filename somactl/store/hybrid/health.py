"""What is known of the two services behind a hybrid store: whether they answer, and what went wrong."""

from __future__ import annotations

import copy
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal, TypeVar

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
from somactl.store.contract import PastDegradation

T = TypeVar("T")
State = Literal["closed", "open", "half-open"]

FAILURES = 3
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 30.0


class Breaker:
    """A circuit breaker: the state of one service, as the calls to it turned out. It makes none of its own.

    closed      calls go through. `failures` in a row open it
    open        no call goes through until a pause is over: 0.25 s, then twice the last one, at most 30 s
    half-open   one caller is trying (`try_again`); it closes the breaker, or opens it for longer

    `clock` counts seconds and never goes back.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        failures: int = FAILURES,
        first_pause: float = FIRST_PAUSE,
        longest_pause: float = LONGEST_PAUSE,
    ) -> None:
        self.state: State = "closed"
        self._clock = clock
        self._allowed = failures
        self._first_pause = first_pause
        self._longest_pause = longest_pause
        self._failed = 0
        self._pause = first_pause
        self._until = 0.0

    @property
    def closed(self) -> bool:
        return self.state == "closed"

    @property
    def suspect(self) -> bool:
        """Whether the last call failed, be it the first or the tenth."""
        return self._failed > 0

    def try_again(self) -> bool:
        """Whether this caller alone is to find out if the service is back.

        The caller that gets True reports `succeeded` or `failed`, or `gave_up` if it never learns.
        """
        if self.state != "open" or self._clock() < self._until:
            return False
        self.state = "half-open"
        return True

    def succeeded(self) -> None:
        self.state = "closed"
        self._failed = 0
        self._pause = self._first_pause

    def failed(self) -> None:
        self._failed += 1
        if self.state == "half-open":
            self._pause = min(2 * self._pause, self._longest_pause)
            self._open()
        elif self.state == "closed" and self._failed >= self._allowed:
            self._open()

    def gave_up(self) -> None:
        """The caller that was to try did not come to an answer: the next one may, at once."""
        if self.state == "half-open":
            self.state = "open"
            self._until = self._clock()

    def _open(self) -> None:
        self.state = "open"
        self._until = self._clock() + self._pause


class Troubles:
    """What one service could not do while the store went on without it: now, and since it was opened.

    A cause names a kind of trouble, of which a service has few; the last detail of each is kept. Times are
    those of this process's clock, in seconds since 1970: the service's own may be what is missing.
    """

    def __init__(self, service: str) -> None:
        self._service = service
        self._present: dict[str, str] = {}
        self._past: dict[str, PastDegradation] = {}

    def note(self, cause: str, detail: str) -> None:
        """Trouble met just now, which holds until it is `over`."""
        now = time.time()
        seen = self._past.get(cause)
        first_at, count = (seen.first_at, seen.count) if seen else (now, 0)
        self._past[cause] = PastDegradation(self._service, detail, first_at, now, count + 1)
        self._present[cause] = detail

    def over(self, *causes: str) -> None:
        for cause in causes:
            self._present.pop(cause, None)

    @property
    def present(self) -> str | None:
        """What holds now, in one sentence; None where nothing does."""
        return "; ".join(dict.fromkeys(self._present.values())) or None

    @property
    def since_opened(self) -> tuple[PastDegradation, ...]:
        """One for each cause, in the order in which they were met first."""
        return tuple(self._past.values())


class AuthorityGuard:
    """Calls to the authority. Only reads of single keys go through the breaker: where the cache cannot answer
    and the authority is known to be down, they fail at once instead of each waiting for it. Whatever else is
    asked of the authority is tried, and tells whether it is back.

    failing  whether the last call found the authority unavailable, for whatever reason
    """

    def __init__(self, name: str, breaker: Breaker) -> None:
        self.breaker = breaker
        self.troubles = Troubles(name)
        self.failing = False
        self._error: StoreUnavailable | None = None

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        try:
            answer = await call()
        except SomactlError as exc:
            self._note(exc)
            raise
        self._answered()
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
                self._answered()
                yield page
        except SomactlError as exc:
            self._note(exc)
            raise

    def served_stale(self, ttl: float) -> None:
        """Note that copies took the authority's place."""
        detail = f"it was down, and values were served from the cache, at most {ttl:g} s old"
        self.troubles.note("down", detail)

    def _answered(self) -> None:
        self.breaker.succeeded()
        self.failing = False
        self.troubles.over("down")

    def _note(self, error: SomactlError) -> None:
        if isinstance(error, NotFound | CorruptValue | VersionConflict):
            self._answered()
            return
        # What is refused for itself, like a bad name, was perhaps refused without asking the server.
        self.failing = isinstance(error, OutcomeUnknown | StoreUnavailable)
        if isinstance(error, OutcomeUnknown):
            self.breaker.failed()
        elif (
            isinstance(error, StoreUnavailable)
            and error.retryable
            and not isinstance(error, StoreBusy | TooFewReplicas)
        ):
            self._error = error
            self.breaker.failed()

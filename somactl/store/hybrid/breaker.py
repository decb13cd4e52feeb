"""A circuit breaker: after a few failures in a row, ask no more for a while, then let one caller try."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half-open"]

FAILURES = 3
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 30.0


class Breaker:
    """The state of one service, as the calls to it turned out. It makes no calls of its own.

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
        """Whether the caller, and no other, is to find out if the service is back.

        A caller that gets True reports `succeeded` or `failed`, or `gave_up` if it never learns.
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
        """The caller that was to try got no answer: another may, at once."""
        if self.state == "half-open":
            self.state = "open"
            self._until = self._clock()

    def _open(self) -> None:
        self.state = "open"
        self._until = self._clock() + self._pause

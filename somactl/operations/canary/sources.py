"""What a source of samples is, and how long it is asked again before it is said not to answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from somactl.core.canary_samples import AnySample, ArmName, Doubt, Trouble

PATIENCE_SECONDS: Final = 10.0
"""For so long a source that does not answer is asked again, before that is a trouble of the canary."""


class Source(Protocol):
    """The samples of one arm.

    arm        whose samples they are
    is_timed   whether it times what it does itself, so that only one of them is at work at a time
    start      when the window began, which is set once `begin` has ended
    cursor     up to where it has told what, so that another process goes on there
    """

    arm: ArmName
    is_timed: bool
    start: float
    cursor: dict[str, float]

    async def begin(self) -> None:
        """Open what is asked, so that no sample tells of that; raises nothing that only concerns the arm."""

    async def look(self, now: float) -> list[AnySample]:
        """What there is to tell since the last look; raises nothing that only concerns the arm."""

    async def close(self) -> None:
        """Let go of what was opened."""


class Unanswered(Exception):
    """A question to a source that found no answer: which trouble that is, and its detail in one line."""

    def __init__(self, what: Trouble, detail: str) -> None:
        super().__init__(detail)
        self.what, self.detail = what, detail

    def doubt(self, arm: ArmName, now: float) -> Doubt:
        return Doubt(t=now, arm=arm, what=self.what, detail=self.detail)


Now = Callable[[], float]
"""Seconds since 1970 by this machine's clock as it was when the run began; it never goes back."""

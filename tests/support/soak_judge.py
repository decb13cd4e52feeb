"""What clients of a long run were told, held against what was true meanwhile; and whether anything leaks.

All times are by `time.monotonic`, in seconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

SLACK_SECONDS = 2.0
"""Beside what the service says that its rounds take: for messages on their way, on a machine that is busy."""


class Answer(NamedTuple):
    """One request: when it was sent and answered, what it was about, and what came of it.

    kind    health, read or check (the last over gRPC)
    status  of HTTP, or the name of a code of gRPC; "lost" where a request that was taken was not answered
    green   whether health was said to be good
    oldest  seconds since that was read which was read longest ago, as the answer says
    round   seconds that the last round of proofs took, as the answer says
    """

    kind: str
    asked: float
    answered: float
    status: int | str
    green: bool = False
    oldest: float | None = None
    round: float | None = None


@dataclass
class Red:
    """A time in which something was wrong: from when it was surely so, to when its repair began.

    by_age   the age in an answer covers it: what was read since then, and is called good, was not looked at
    in_time  the prover was able to find it all the while
    """

    what: str
    since: float
    until: float
    by_age: bool = True
    in_time: bool = True


@dataclass
class Excused:
    """A time in which reads, or health over gRPC, may fail so: what they need was away."""

    status: int | str
    since: float
    until: float


def patience(answers: Iterable[Answer], interval: float) -> float:
    """In so many seconds a round has seen all that holds: the next one begins within an interval, or once the
    last one has ended, and takes as long as the slowest of which the answers tell."""
    slowest = max((each.round for each in answers if each.round is not None), default=0.0)
    return max(interval, slowest) + slowest + SLACK_SECONDS


def false_greens(answers: Sequence[Answer], reds: Sequence[Red], interval: float) -> list[str]:
    """Each answer that was green although it was known, or had to be known by then, to be red."""
    within = patience(answers, interval)
    found = []
    for red in reds:
        for each in answers:
            if not (each.green and red.since < each.asked and each.answered < red.until):
                continue
            late = each.asked - red.since
            if red.by_age and each.oldest is not None and each.oldest < late:
                found.append(f"{red.what}: proven {each.oldest:.3f} s ago and green, {late:.3f} s after it")
            elif red.in_time and late > within:
                found.append(f"{red.what}: {each.kind} is green after {late:.3f} s, of {within:.3f} s")
    return found


def unseen(answers: Sequence[Answer], reds: Sequence[Red]) -> list[str]:
    """Each time that no answer called red at all: a run that has not asked meanwhile proves nothing."""
    return [
        f"{red.what} was never told"
        for red in reds
        if not any(
            each.kind == "health" and not each.green and red.since < each.asked and each.answered < red.until
            for each in answers
        )
    ]


def failures(answers: Sequence[Answer], excused: Sequence[Excused]) -> list[str]:
    """Each answer that a client may not get: of health anything but 200 and 503; of the others what no
    excuse is for."""
    expected = {"health": (200, 503), "read": (200,), "check": ("OK",)}
    return [
        f"{each.kind}: {each.status} at {each.asked:.3f}"
        for each in answers
        if each.status not in expected[each.kind]
        and not any(
            each.status == one.status and one.since < each.answered and each.asked < one.until
            for one in excused
        )
    ]


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """How much a value grows a second: the median of the slopes between two samples (Theil, Sen), which a
    few peaks do not move."""
    some = samples[:: max(1, len(samples) // 200)]
    slopes = [
        (after - before) / (late - early)
        for index, (early, before) in enumerate(some)
        for late, after in some[index + 1 :]
        if late > early
    ]
    return statistics.median(slopes) if slopes else 0.0


def leaks(samples: Sequence[tuple[float, float]], warm_up: float, allowed: float) -> float | None:
    """By how much a value grew over all after the warm-up, if that is more than `allowed`."""
    warm = [each for each in samples if each[0] - samples[0][0] >= warm_up]
    if len(warm) < 3:
        return None
    grown = slope(warm) * (warm[-1][0] - warm[0][0])
    return grown if grown > allowed else None

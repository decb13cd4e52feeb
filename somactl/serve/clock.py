"""The clock by which results age: one for all processes of a machine, and no change of the date moves it."""

from __future__ import annotations

import time

_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


def moment() -> float:
    """Seconds, of which the time that the machine was suspended is a part, where the kernel counts that.

    By Linux's monotonic clock a proof from before a suspension would look as young after it as it did before.
    """
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)

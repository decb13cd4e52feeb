"""How long to wait before a call is tried again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0


def pauses(seconds: float, dice: Callable[[], float] = random.random) -> Iterator[float]:
    """Pauses between attempts until `seconds` are up; the clock runs during the attempts as well.

    The pause before attempt k is drawn evenly from 0 to min(0.05 s x 2^k, 1 s): full jitter, so that many
    clients that failed together do not come back together.
    """
    clock = asyncio.get_running_loop().time
    end = clock() + seconds
    ceiling = FIRST_PAUSE
    while (left := end - clock()) > 0:
        yield min(left, dice() * ceiling)
        ceiling = min(2 * ceiling, LONGEST_PAUSE)

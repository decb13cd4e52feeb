"""How much memory a migration takes does not depend on how many values there are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from faults.migrations import Ground, LegacyRedis, density, numpy_form
from servers.redis import RedisServer

BATCH_VALUES = 100
MIB = 1024


@pytest.fixture
def large(tmp_path: Path) -> Iterator[LegacyRedis]:
    with RedisServer(tmp_path / "large") as server:
        yield LegacyRedis(server)


def load(source: LegacyRedis, count: int, n: int) -> None:
    """So many values with a matrix of n x n each."""
    dice = np.random.default_rng(n)
    some = [json.dumps(numpy_form(density(dice, n))).encode() for _ in range(20)]
    source.load({f"key:{number:06d}": some[number % len(some)] for number in range(count)})


# Many small values show what is kept of each: 1 KiB for one would make 5 MiB. Large ones show payloads.
@pytest.mark.parametrize(
    ("kind", "n", "few", "many", "limit_mib"), [("redis", 1, 1000, 6000, 4), ("postgres", 64, 300, 1500, 12)]
)
async def test_peak_memory_is_independent_of_the_number_of_values(
    ground: Ground, large: LegacyRedis, kind: str, n: int, few: int, many: int, limit_mib: int
) -> None:
    peaks: dict[str, list[int]] = {}
    for count in (few, many):
        load(large, count, n)
        target = await ground.target(kind)
        for words in ((), ("finalize", "--yes"), ("revert",), ("forget", "--yes")):
            run = ground.runs.run(large.url, target, *words, batch_values=BATCH_VALUES)
            assert run.code == 0, run.err
            peaks.setdefault(" ".join(words), []).append(run.peak_kib)
    assert all(most - least < limit_mib * MIB for least, most in peaks.values()), peaks

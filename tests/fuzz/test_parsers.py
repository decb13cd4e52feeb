"""Damaged input ends as an error of the tree, whichever parser it meets.

10^5 inputs in an ordinary run, 10^7 where SOMACTL_TEST_NIGHT is set. The seeds are fixed. An input that
brings out anything else is printed and written to `found/TARGET/`; what lies there is tried first, ever
after.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import os
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz.mutation import mutated
from fuzz.targets import TARGETS, Target

INPUTS = 10_000_000 if os.environ.get("SOMACTL_TEST_NIGHT") else 100_000
FOUND = Path(__file__).parent / "found"
MOST_BYTES = 64 << 20
"""What one input of a few KB may make its parser allocate."""
STALLED_SECONDS = 120
"""A back-up: nothing here takes milliseconds, and what takes minutes prints where it stands, and ends."""


@pytest.mark.parametrize("name", TARGETS)
def test_only_errors_of_the_tree_come_out(name: str) -> None:
    target = TARGETS[name]
    for path in sorted((FOUND / name.replace(" ", "-")).glob("*")):
        _try(name, target, path.read_bytes())
    for seed in target.seeds:
        target.run(seed)  # sound, or the damage would hide behind another
    rng = random.Random(name)
    count = INPUTS * target.share // sum(each.share for each in TARGETS.values())
    for data in _inputs(target, rng, count):
        _try(name, target, data)


@pytest.mark.parametrize("name", TARGETS)
def test_little_input_takes_little_memory(name: str) -> None:
    target = TARGETS[name]
    rng = random.Random(f"memory {name}")
    tracemalloc.start()
    try:
        for data in _inputs(target, rng, 40):
            tracemalloc.reset_peak()
            with contextlib.suppress(*target.raises):
                target.run(data)
            assert tracemalloc.get_traced_memory()[1] < MOST_BYTES, data
    finally:
        tracemalloc.stop()


def _inputs(target: Target, rng: random.Random, count: int) -> Iterator[bytes]:
    for i in range(count):
        yield mutated(target.seeds[i % len(target.seeds)], rng, target.words)


def _try(name: str, target: Target, data: bytes) -> None:
    faulthandler.dump_traceback_later(STALLED_SECONDS, exit=True)
    try:
        target.run(data)
    except target.raises as error:
        if getattr(error, "exit_code", 11) == 1:
            pytest.fail(f"{name}: {error} for {data[:300]!r}")
    except BaseException as error:
        folder = FOUND / name.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / hashlib.sha256(data).hexdigest()[:16]
        path.write_bytes(data)
        pytest.fail(f"{name}: {type(error).__name__}: {error}; input kept as {path}: {data[:300]!r}")
    finally:
        faulthandler.cancel_dump_traceback_later()

"""Stores full of what an audit finds: valid matrices, and one of each that is not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from somactl.core.envelope import serialize_matrix
from somactl.operations.audit.model import Proven, Task
from somactl.store.contract import Store
from somactl.testing.values import envelope, proof, write

VIOLATED, CLAMPABLE, OTHER = "k00007", "k00011", "k00013"


async def fill(store: Store, count: int, *, n: int = 6) -> list[str]:
    """Commit `count` matrices under keys in order, all valid but one violated, one clampable, one no rho."""
    keys = [f"k{number:05}" for number in range(count)]
    for start in range(0, count, 500):
        some = {key: _envelope(store, key, n) for key in keys[start : start + 500]}
        await write(store, some, verdicts=proof(*some.values()))
    return keys


def _envelope(store: Store, key: str, n: int) -> bytes:
    if key == OTHER:
        return envelope(key, namespace=store.namespace, kind="matrix")
    if key not in (VIOLATED, CLAMPABLE):
        return envelope(key, int(key[1:]), namespace=store.namespace, kind="rho", n=n)
    below = 1e-3 if key == VIOLATED else 1e-10
    return serialize_matrix(np.diag([1.0 + below, -below]), key=key, namespace=store.namespace, kind="rho")


def tasks_of(keys: Sequence[str], size: int) -> list[Task]:
    """Tasks of `size` keys each, whose sizes are not known."""
    portions = [list(keys[start : start + size]) for start in range(0, len(keys), size)]
    return [Task(portion, [0] * len(portion)) for portion in portions]


def summed(found: Sequence[Proven]) -> tuple[object, ...]:
    """What was found altogether, but for the version: it is that of a moment."""
    results = [
        (each.source, each.outcome, each.version, each.digest) for one in found for each in one.results
    ]
    numbers = Proven(results=[])
    for one in found:
        numbers.worsen(one.rigour, one.blas, one.worst_trace_error, one.lowest_lambda_min)
    return (
        sum(one.valid for one in found),
        sum(one.bytes_ for one in found),
        results,
        [key for one in found for key in one.absent],
        (numbers.rigour, numbers.worst_trace_error, numbers.lowest_lambda_min),
    )

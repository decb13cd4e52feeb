"""How much is to be read again in a run, for every key to have its turn."""

from __future__ import annotations

import pytest

from somactl.operations.audit.cycle import Cycle
from somactl.operations.audit.ledger import Run, Span


def ran(started_at: float, share: float = 0.25, scope: str = "all") -> Run:
    return Run(started_at, started_at + 1, 25, 0, share, scope)


def span(read_at: float | None, keys: int) -> Span:
    return Span(None, None, read_at, keys, 0)


def test_a_cycle_that_begins_spreads_the_work() -> None:
    assert Cycle([], 0.25, "all").due([span(None, 60), span(1.0, 40)]) == 25
    assert Cycle([ran(10.0)], 0.25, "all").due([span(1.0, 75), span(10.0, 25)]) == 25
    assert Cycle([], 1.0, "all").due([span(None, 60)]) == 60
    assert Cycle([], 1 / 3, "all").length == 3


def test_what_has_one_run_left_is_due_whole() -> None:
    cycle = Cycle([ran(10.0), ran(20.0), ran(30.0)], 0.25, "all")
    ages = [(1.0, 1), (10.0, 2), (25.0, 3), (30.0, 4), (None, 1)]
    assert [cycle.runs_left(read_at) for read_at, _ in ages] == [left for _, left in ages]
    assert cycle.due([span(1.0, 40), span(10.0, 20)]) == 40
    assert cycle.due([span(1.0, 10), span(10.0, 70)]) == 40


@pytest.mark.parametrize("other", [ran(30.0, share=0.1), ran(30.0, share=0.0), ran(30.0, scope="1-of-2")])
def test_runs_that_read_less_or_other_keys_do_not_count(other: Run) -> None:
    assert Cycle([ran(10.0), other], 0.25, "all").runs_left(5.0) == 3

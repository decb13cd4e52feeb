"""Every error travels from a worker process to its parent as it is."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from somactl import errors
from somactl.core.invariants import check
from somactl.errors import InputsRejected, InvariantViolated, OutcomeUnknown, SomactlError, VersionConflict
from somactl.suggestion import run

CONFLICTS = {"a": {"expected": 1, "found": 2}}
MADE: dict[type[SomactlError], Any] = {
    InvariantViolated: lambda: InvariantViolated("m", verdict=check(np.diag([1.5, -0.5])), hint="h", fact=1),
    VersionConflict: lambda: VersionConflict("m", conflicts=CONFLICTS, hint="h", next=run("log", "a")),
    OutcomeUnknown: lambda: OutcomeUnknown("m", commit_id="c", hint="h", fact=1),
    InputsRejected: lambda: InputsRejected([("a", SomactlError("no"))], total=2),
}


def tree(kind: type[SomactlError]) -> Iterator[type[SomactlError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from tree(below)


KINDS = sorted(set(tree(SomactlError)), key=lambda kind: kind.__name__)


def made(kind: type[SomactlError]) -> SomactlError:
    if kind in MADE:
        error = MADE[kind]()
        assert isinstance(error, SomactlError)
        return error
    return kind("m", hint="h", next=[run("doctor"), run("log", "a", limit=3)], keys=["a"], number=3)


@pytest.mark.parametrize("kind", [k for k in KINDS if k.__module__ == errors.__name__])
def test_an_error_arrives_as_it_was_sent(kind: type[SomactlError]) -> None:
    sent = made(kind).about("key 'a'")
    sent.during(command="verify-psd", store="sqlite:///x.db", namespace="n")
    arrived = pickle.loads(pickle.dumps(sent))
    assert type(arrived) is kind
    assert (str(arrived), arrived.args) == (str(sent), sent.args)
    assert str(arrived).startswith("key 'a': ")
    for name, value in vars(sent).items():
        there = getattr(arrived, name)
        if name == "verdict":
            value, there = value.without_vector(), there.without_vector()
        assert there == value, name


def test_what_caused_an_error_stays_where_it_was() -> None:
    """A driver's error may quote the password it was given."""
    try:
        try:
            raise ValueError("hunter2")
        except ValueError as exc:
            raise errors.AccessDenied("refused") from exc
    except errors.AccessDenied as exc:
        data = pickle.dumps(exc)
    assert b"hunter2" not in data
    assert pickle.loads(data).__cause__ is None

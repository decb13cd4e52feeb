"""An audit whose records cannot be kept goes on, and says why they are not."""

from __future__ import annotations

from typing import Any

import pytest

from audit.test_memory import Dictionary
from somactl.core.verdict import Tolerances
from somactl.errors import (
    AccessDenied,
    OutcomeUnknown,
    SomactlError,
    StoreFull,
    TargetRefused,
    VersionConflict,
)
from somactl.operations.audit.model import Check
from somactl.operations.audit.records import Records


class Refusing(Dictionary):
    def __init__(self, error: SomactlError) -> None:
        super().__init__()
        self.error = error

    async def write_notes(self, changes: Any, expected: Any = None) -> dict[str, int]:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        AccessDenied("may not write"),
        StoreFull("no space"),
        TargetRefused("read-only file system"),
        VersionConflict("others were faster", conflicts={}),
        OutcomeUnknown("no reply came", commit_id=""),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_cannot_be_kept_ends_no_audit(
    error: SomactlError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("somactl.operations.audit.memory.FIRST_PAUSE", 0.0)
    records = Records(Refusing(error), Check(Tolerances()), "store")
    await records.load("i1")
    await records.save()
    assert records.lost == error.message
    assert records.notes is None
    await records.save()  # and is not tried again

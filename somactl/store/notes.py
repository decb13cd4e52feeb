"""What every store decides about notes before it writes: pure functions, shared by all that keep notes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from somactl.errors import EmptyCommit, InputRejected, InvalidName, LimitExceeded, VersionConflict
from somactl.store.contract import MAX_NOTE_BYTES

_NOTE_NAME = re.compile(r"[A-Za-z0-9._:/-]{1,256}\Z")


def check_note_name(name: str) -> str:
    """Raises InvalidName."""
    if not _NOTE_NAME.match(name):
        raise InvalidName(f"note {name[:80]!r} is not named by 1-256 letters, digits and . _ : / -")
    return name


def check_notes(changes: Mapping[str, bytes | None], expected: Mapping[str, int]) -> None:
    """Everything about a write of notes that can be told without the store's state.

    Raises EmptyCommit, InvalidName, LimitExceeded, InputRejected.
    """
    if not changes:
        raise EmptyCommit("no note is to be written")
    for name in (*changes, *expected):
        check_note_name(name)
    for name, data in changes.items():
        if data is not None and not isinstance(data, bytes):
            raise InputRejected(f"note {name!r} is no bytes but {type(data).__name__}")
    size = sum(len(data) for data in changes.values() if data is not None)
    if size > MAX_NOTE_BYTES:
        raise LimitExceeded(f"the notes have {size} bytes; at most {MAX_NOTE_BYTES} are written at once")
    for name, version in expected.items():
        if isinstance(version, bool) or not isinstance(version, int) or version < 0:
            raise InputRejected(f"note {name!r}: the expected version is {version!r}; it is a number from 0")


def refuse_note_conflicts(expected: Mapping[str, int], found: Mapping[str, int]) -> None:
    """Raise VersionConflict naming each note that is not where it was expected; `found`: those there."""
    conflicts = {
        name: {"expected": {"version": version}, "found": {"version": found.get(name, 0)}}
        for name, version in expected.items()
        if found.get(name, 0) != version
    }
    if conflicts:
        sentences = [
            f"note {name!r} was expected at version {facts['expected']['version']} and is at version"
            f" {facts['found']['version']}"
            for name, facts in list(conflicts.items())[:3]
        ]
        raise VersionConflict(
            "; ".join(sentences), conflicts=conflicts, hint="another run writes the same notes; try again"
        )

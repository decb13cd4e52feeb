"""Every follow-up of a migration in every state of it: done once, and said to be done from then on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from migration.places import VALUES, fill
from migration.running import DISCOVER, Migration
from somactl.config import Settings
from somactl.errors import SomactlError
from somactl.report import MigrateReport
from source.backends import RedisBackend

FOLLOW_UPS: dict[str, Callable[[Migration], Awaitable[MigrateReport]]] = {
    "resume": lambda migration: migration.copy(resume=True),
    "finalize": Migration.finalize,
    "revert": Migration.revert,
    "forget": Migration.forget,
}
STATES: dict[str, list[str]] = {
    "copied": ["resume"],
    "finalized": ["resume", "finalize"],
    "reverted": ["resume", "revert"],
    "reverted after finalizing": ["resume", "finalize", "revert"],
    "forgotten": ["resume", "finalize", "forget"],
}
"""The follow-ups that lead there."""

EXPECTED: dict[str, dict[str, str | int]] = {
    "copied": {"resume": "copied", "finalize": "finalized", "revert": "reverted", "forget": "forgotten"},
    "finalized": {
        "resume": "finalized",
        "finalize": "finalized",
        "revert": "reverted",
        "forget": "forgotten",
    },
    "reverted": {"resume": 2, "finalize": 2, "revert": "reverted", "forget": "forgotten"},
    "reverted after finalizing": {"resume": 2, "finalize": 2, "revert": "reverted", "forget": "forgotten"},
    "forgotten": {"finalize": 15, "revert": 15, "forget": "forgotten"},
}
"""The phase that each follow-up ends in, or the exit code of its refusal. What resumes a migration that is
forgotten begins a new one."""


async def everything(backend: RedisBackend, migration: Migration) -> dict[str, Any]:
    """What is in the source, and in the store with the names of its notes."""
    async with migration.store() as store:
        notes = [note.name async for page in store.scan_notes("migration/") for note in page]
        version = (await store.head()).version
    values = {key: await backend.read(key) for key in VALUES}
    return {"source": values, "store": await migration.contents(), "notes": notes, "version": version}


async def reached(backend: RedisBackend, sqlite: Settings, state: str) -> tuple[Migration, MigrateReport]:
    await fill(backend)
    migration = Migration(backend.open, sqlite, DISCOVER)
    for name in STATES[state]:
        report = await FOLLOW_UPS[name](migration)
    return migration, report


@pytest.mark.parametrize("name", FOLLOW_UPS)
@pytest.mark.parametrize("state", STATES)
async def test_each_follow_up_in_each_state(
    redis_values: RedisBackend, sqlite: Settings, state: str, name: str
) -> None:
    expected = EXPECTED[state].get(name)
    if expected is None:
        return
    migration, _ = await reached(redis_values, sqlite, state)
    before = await everything(redis_values, migration)
    if isinstance(expected, int):
        with pytest.raises(SomactlError) as caught:
            await FOLLOW_UPS[name](migration)
        assert caught.value.exit_code == expected
        assert await everything(redis_values, migration) == before
        return
    first = await FOLLOW_UPS[name](migration)
    assert (first.phase, first.complete) == (expected, True)
    there = await everything(redis_values, migration)
    if name == STATES[state][-1] or name == "resume":
        assert there == before
    for _ in range(2):
        again = await FOLLOW_UPS[name](migration)
        assert (again.phase, again.code, again.complete) == (expected, first.code, True)
        assert await everything(redis_values, migration) == there


async def test_what_resumes_a_copied_migration_reads_nothing_of_its_source(
    redis_values: RedisBackend, sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration, report = await reached(redis_values, sqlite, "copied")

    def refuse(*words: object, **named: object) -> None:
        raise AssertionError("the source is read")

    monkeypatch.setattr(type(redis_values.open()), "names", refuse)
    monkeypatch.setattr(type(redis_values.open()), "fetch", refuse)
    again = await migration.copy(resume=True)
    assert "nothing was left to resume" in again.warnings[0]
    again.warnings = report.warnings
    assert again == report

"""The judge of the fault tests must itself be able to fail: each kind of damage, done by hand, is found."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from faults.checker import judge
from faults.history import History, Look
from faults.load import KEYS, Load
from somactl.store.sqlite import SqliteStore
from support.sqlite_backend import SqliteBackend

NAMESPACE = "default"


class SqlitePlace(SqliteBackend):
    namespace = NAMESPACE
    stale_seconds: float | None = None

    def open(self, namespace: str = NAMESPACE, *, patient: bool = False) -> SqliteStore:
        return super().open(namespace)

    async def litter(self) -> list[str]:
        return []

    def change(self, statement: str) -> None:
        with self.raw() as connection:
            assert connection.execute(statement).rowcount > 0


Run: TypeAlias = "tuple[SqlitePlace, History]"


async def run_until(path: Path, commits: int) -> Run:
    place = SqlitePlace(path)
    history = History(NAMESPACE)
    store = place.open()
    await store.init()
    await store.close()
    async with Load(place, history, random.Random(11), writers=3, readers=2) as load:
        await load.progress(commits)
    return place, history


@pytest.fixture
async def run(tmp_path: Path) -> Run:
    """A run without any fault."""
    return await run_until(tmp_path / "somactl.db", 40)


async def test_a_run_without_fault_is_faultless(run: Run) -> None:
    place, history = run
    assert history.acknowledged >= 40
    assert len(history.looks) > 20
    assert await judge(place, history) == []


async def test_the_load_does_what_it_says(tmp_path: Path) -> None:
    """Conflicts, deletes, large values, several groups at once and expectations all occur."""
    _, history = await run_until(tmp_path / "somactl.db", 200)
    attempts = history.attempts.values()
    assert any(attempt.expected for attempt in attempts if attempt.outcome == "acknowledged")
    assert any(None in attempt.updates.values() for attempt in attempts)
    assert any(len(attempt.updates) > 3 for attempt in attempts)
    assert len({attempt.side for attempt in attempts}) == 2
    assert history.count("refused") > 0


DAMAGE: dict[str, tuple[str, str]] = {
    "a lost record": ("DELETE FROM commit_record WHERE version BETWEEN 10 AND 20", "is aborted"),
    "a gap": ("UPDATE commit_record SET version = NULL WHERE version = 20", "and the head is at"),
    "a head that ran ahead": ("UPDATE namespace SET version = version + 1", "and the head is at"),
    "a key that was forgotten": (
        "DELETE FROM revision WHERE key = 'a-y' AND superseded_at IS NULL",
        "in a snapshot, and",
    ),
    "a value that changed": (
        "UPDATE payload SET data = zeroblob(length(data)) WHERE id IN (SELECT id FROM revision "
        "WHERE key = 'b-y' AND superseded_at IS NOT NULL)",
        "cannot be read: CorruptValue",
    ),
    "a receipt that changed": (
        "UPDATE commit_record SET recorded_at = recorded_at + 1 WHERE version > 20",
        "was acknowledged as",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_damage_is_found(run: Run, damage: str) -> None:
    place, history = run
    statement, sentence = DAMAGE[damage]
    place.change(statement)
    defects = await judge(place, history)
    assert any(sentence in defect for defect in defects), defects


def latest(history: History) -> Look:
    return max((look for look in history.looks if look.version), key=lambda look: look.version or 0)


def torn(history: History) -> None:
    look = next(look for look in history.looks if look.version and all(look.seen.values()))
    key = next(iter(look.seen))
    version, marker = look.seen[key] or (0, 0)
    history.looks.append(replace_seen(look, {**look.seen, key: (version, marker + 1)}))


def backwards(history: History) -> None:
    first = next(look for look in history.looks if look.client.startswith("r") and look.version)
    history.looks.append(first)


def replace_seen(look: Look, seen: dict[str, tuple[int, int] | None]) -> Look:
    return Look("other", look.floor, look.began, seen, look.version, look.served_by, look.degraded)


def stale(history: History) -> None:
    one = next(look for look in history.looks if look.version and any(look.seen.values()))
    key = next(key for key in one.seen if one.seen[key])
    history.looks.append(
        Look("other", history.newest, one.began, {key: one.seen[key]}, None, one.served_by, False)
    )


def never(history: History) -> None:
    one = latest(history)
    history.looks.append(Look("other", 0, one.began, {KEYS[0]: (7, -1)}, None, one.served_by, False))


@pytest.mark.parametrize("lie", [torn, backwards, stale, never])
async def test_a_read_that_nothing_explains_is_found(run: Run, lie: Callable[[History], None]) -> None:
    place, history = run
    lie(history)
    assert len(await judge(place, history)) == 1


async def test_a_commit_that_was_refused_and_is_there_is_found(run: Run) -> None:
    place, history = run
    attempt = next(attempt for attempt in history.attempts.values() if attempt.outcome == "acknowledged")
    attempt.outcome = "refused"
    assert any("is committed" in defect for defect in await judge(place, history))


async def test_a_commit_that_nobody_sent_is_found(run: Run) -> None:
    place, history = run
    commit_id = next(id_ for id_, attempt in history.attempts.items() if attempt.outcome == "acknowledged")
    del history.attempts[commit_id]
    assert any("which no client sent" in defect for defect in await judge(place, history))


async def test_a_cached_value_may_be_stale_for_so_long_and_no_longer(run: Run) -> None:
    place, history = run
    stale(history)
    place.stale_seconds = 60.0
    assert await judge(place, history) == []
    late = history.looks[-1]
    history.looks[-1] = Look(
        "other", late.floor, late.began + 120, late.seen, None, late.served_by, late.degraded
    )
    assert any("was superseded by" in defect for defect in await judge(place, history))

"""Taking out of the source what is safe, putting it back, and forgetting it: on every source and store."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migration.forms import density, numpy_form, text
from migration.places import LEFT, OTHER, RHO, TARGETS, VALUES, fill, same, shown
from migration.running import DISCOVER, Migration, outcomes, same_bits
from migration.stopping import after_batches
from somactl.config import Settings
from somactl.errors import NotFound, UsageError
from somactl.legacy import batches, finalize, independent_parser, revert
from somactl.operations.admission import Policy
from somactl.operations.commit import commit_matrix_update
from source.backends import Backend, RedisBackend
from support.sqlite_backend import SqliteBackend


async def migrated(backend: Backend, settings: Settings, *, finalized: bool = True) -> Migration:
    await fill(backend)
    migration = Migration(backend.open, settings, DISCOVER)
    report = await migration.copy()
    assert outcomes(report) == {"migrate": 6, "not-a-matrix": 1, "rejected": 2}
    if finalized:
        done = await migration.finalize()
        assert (done.phase, done.finalized, done.left_alone, done.code) == ("finalized", 5, {}, 0)
    return migration


async def found(backend: Backend) -> dict[str, bytes | None]:
    return {key: await backend.read(key) for key in VALUES}


async def as_it_was(backend: Backend) -> bool:
    return all(same(backend, value, VALUES[key]) for key, value in (await found(backend)).items())


async def overwrite(migration: Migration, key: str, array: np.ndarray | None) -> None:
    async with migration.store() as store:
        await commit_matrix_update(store, {key: array}, policy=Policy(kind="matrix", change_kind=True))


async def test_the_whole_way_there_and_back(legacy: Backend, target: Settings) -> None:
    """Copied, finalized, read by reference, reverted, copied anew, finalized, forgotten."""
    migration = await migrated(legacy, target, finalized=False)
    assert await as_it_was(legacy)
    assert set(await migration.contents()) == {*TARGETS, "lists"}
    await migration.finalize()
    after = await found(legacy)
    assert {key: shown(value) for key, value in after.items()} == LEFT
    for key, array in TARGETS.items():
        assert same_bits(await migration.matrix(key), array)
    again = await migration.finalize()
    assert (again.finalized, again.left_alone, again.code) == (5, {}, 0)
    assert await found(legacy) == after
    reverted = await migration.revert()
    assert (reverted.phase, reverted.restored, reverted.withdrawn, reverted.code) == ("reverted", 5, 6, 0)
    assert await as_it_was(legacy)
    assert await migration.contents() == {}
    repeated = await migration.revert()
    assert (repeated.phase, repeated.restored, repeated.withdrawn, repeated.code) == ("reverted", 0, 0, 0)
    anew = await migration.copy()
    assert outcomes(anew) == {"migrate": 6, "not-a-matrix": 1, "rejected": 2}
    second = await migration.finalize()
    assert (second.finalized, second.code) == (5, 0)
    assert {key: shown(value) for key, value in (await found(legacy)).items()} == LEFT
    forgotten = await migration.forget()
    assert (forgotten.phase, forgotten.forgotten) == ("forgotten", 5)
    with pytest.raises(NotFound, match="is recorded in namespace"):
        await migration.revert()
    async with migration.store() as store:
        assert [note async for page in store.scan_notes("migration/") for note in page] == []
    assert set(await migration.contents()) == {*TARGETS, "lists"}


async def test_references_name_what_they_stand_for(legacy: Backend, sqlite: Settings) -> None:
    migration = await migrated(legacy, sqlite)
    value = json.loads(await legacy.read("two") or b"")
    contents = await migration.contents()
    for node, key in ((value["a"], "two#/a"), (value["b"]["c"][1], "two#/b/c/1")):
        assert node == {"__somactl__": {"key": key, "version": 1, "digest": contents[key]}}


async def test_every_other_byte_stays(redis_values: RedisBackend, sqlite: Settings) -> None:
    """Blanks, digits and escapes, as no printer of JSON writes them."""
    await migrated(redis_values, sqlite)
    left = await redis_values.read("embedded")
    assert left is not None
    assert left.startswith(b'{ "rho": {"__somactl__"')
    assert left.endswith(b'},"n": 1.50, "t": "\\u00e9" }')
    assert await redis_values.read("note") == VALUES["note"]
    assert await redis_values.read("broken") == VALUES["broken"]


async def test_a_time_to_live_stays_with_the_value_and_comes_back_with_it(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    await fill(redis_values)
    until = int(time.time()) + 5000
    with redis_values.server.client() as raw:
        for key in ("whole", "embedded"):
            raw.expireat(key, until)
    migration = Migration(redis_values.open, sqlite, DISCOVER)
    await migration.copy()
    await migration.finalize()
    with redis_values.server.client() as raw:
        assert raw.expiretime("embedded") == until
    await migration.revert()
    with redis_values.server.client() as raw:
        assert (raw.expiretime("embedded"), raw.expiretime("whole")) == (until, until)
        assert raw.ttl("lists") == -1


# Nothing goes that is not known to be safe.


async def test_a_value_that_changed_since_is_left_alone_and_listed(legacy: Backend, sqlite: Settings) -> None:
    migration = await migrated(legacy, sqlite, finalized=False)
    changed = {"whole": text(numpy_form(OTHER)), "embedded": b'{"rho": 1}', "lists": None}
    await legacy.put(changed)
    report = await migration.finalize()
    assert (report.finalized, report.code) == (2, 4)
    assert set(report.left_alone) == set(changed)
    assert "not there any more" in report.left_alone["lists"]
    assert "not the value that was migrated" in report.left_alone["whole"]
    for key, value in changed.items():
        assert same(legacy, await legacy.read(key), value)


async def test_a_value_that_changes_at_this_moment_is_left_alone(
    legacy: Backend, sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the comparison and the change: the source's own compare-and-set refuses."""
    migration = await migrated(legacy, sqlite, finalized=False)
    source_type = type(legacy.open(read_only=True))
    swap = source_type.swap

    async def late(self: Any, changes: Any) -> Any:
        await legacy.put({"embedded": b'{"rho": "newer"}'})
        return await swap(self, changes)

    monkeypatch.setattr(source_type, "swap", late)
    report = await migration.finalize()
    monkeypatch.undo()
    assert (report.finalized, set(report.left_alone), report.code) == (4, {"embedded"}, 4)
    assert json.loads(await legacy.read("embedded") or b"") == {"rho": "newer"}
    reverted = await migration.revert()
    assert reverted.restored == 4
    assert json.loads(await legacy.read("embedded") or b"") == {"rho": "newer"}


async def test_a_target_that_is_not_what_was_migrated_keeps_the_value(
    redis_values: RedisBackend, target: Settings
) -> None:
    """Overwritten or deleted: retention would soon have removed the only copy."""
    migration = await migrated(redis_values, target, finalized=False)
    await overwrite(migration, "whole", OTHER)
    await overwrite(migration, "two#/a", None)
    report = await migration.finalize()
    assert (report.finalized, report.code) == (3, 4)
    assert set(report.left_alone) == {"whole", "two"}
    assert "holds another matrix since version" in report.left_alone["whole"]
    assert "not in the store any more" in report.left_alone["two"]
    for key in ("whole", "two"):
        assert await redis_values.read(key) == VALUES[key]


@pytest.mark.parametrize("cached", [False, True], ids=["alone", "behind a cache with a good copy"])
async def test_a_corrupt_target_keeps_the_value(
    redis_values: RedisBackend, sqlite: Settings, cached: bool
) -> None:
    settings = replace(sqlite, cache=redis_values.server.url, read_timeout=2.0) if cached else sqlite
    migration = await migrated(redis_values, settings, finalized=False)
    if cached:
        async with migration.store() as store:
            assert (await store.read("whole")).key == "whole"
            await store.read_many(["whole", "two#/a"])
    behind = SqliteBackend(Path(sqlite.store.removeprefix("sqlite:///")))
    for key in ("whole", "two#/a"):
        data = bytearray(await behind.stored_bytes("default", key, 1))
        data[-1] ^= 1
        await behind.overwrite("default", key, 1, bytes(data))
    report = await migration.finalize()
    assert (report.finalized, set(report.left_alone), report.code) == (3, {"whole", "two"}, 4)
    assert "corrupt" in report.left_alone["whole"]
    for key in ("whole", "two"):
        assert await redis_values.read(key) == VALUES[key]


async def test_a_first_reading_that_was_wrong_is_found_by_the_second(
    redis_values: RedisBackend, sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Had the fast parser mistaken a number, its envelope would agree with it, and none would notice."""
    from somactl.legacy import kinds

    parse = kinds.parse_matrix

    def mistaken(text: bytes) -> np.ndarray:
        array = parse(text)
        return array if array.shape != (4, 4) else array[::-1, ::-1].copy()

    monkeypatch.setattr(kinds, "parse_matrix", mistaken)
    migration = await migrated(redis_values, sqlite, finalized=False)
    report = await migration.finalize()
    assert (report.finalized, report.code) == (1, 4)  # the list of two rows alone
    assert set(report.left_alone) == {"whole", "embedded", "two", "half"}
    assert all("does not hold, bit for bit" in why for why in report.left_alone.values())
    assert await redis_values.read("whole") == VALUES["whole"]


def test_the_second_reading_shares_no_parser_with_the_first() -> None:
    import ast
    import inspect

    tree = ast.parse(inspect.getsource(independent_parser))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not {m for m in modules if m and "legacy" in m}
    assert not names & {"simdjson", "pybase64"}


@pytest.mark.parametrize(
    "value",
    [
        b"[" * 1000 + text(RHO.tolist()) + b"]" * 1000,
        b'{"rho": %s, "deep": %s}' % (text(RHO.tolist()), b"[" * 1020 + b"]" * 1020),
    ],
    ids=["around it", "beside it"],
)
async def test_what_is_too_deep_for_the_second_reading_is_left_alone(
    redis_values: RedisBackend, sqlite: Settings, value: bytes
) -> None:
    """Deeper than Python's own JSON parser goes; the first reading goes to 1024."""
    await redis_values.put({"deep": value, "good": text(RHO.tolist())})
    migration = Migration(redis_values.open, sqlite, DISCOVER)
    await migration.copy()
    report = await migration.finalize()
    assert report.finalized >= 1
    assert await redis_values.read("good") is None
    if "deep" in report.left_alone:
        assert await redis_values.read("deep") == value
    reverted = await migration.revert()
    assert reverted.code == 0
    assert await redis_values.read("deep") == value
    assert await redis_values.read("good") == text(RHO.tolist())


# Reverting.


async def test_what_changed_after_it_was_finalized_stays_and_so_does_its_target(
    legacy: Backend, sqlite: Settings
) -> None:
    migration = await migrated(legacy, sqlite)
    newer = b'{"rho": {"__somactl__": "mine"}, "n": 2}'
    await legacy.put({"whole": text("back again"), "embedded": newer})
    report = await migration.revert()
    assert (report.restored, report.withdrawn, report.code) == (3, 4, 4)
    assert set(report.left_alone) == {"whole", "embedded"}
    assert set(await migration.contents()) == {"whole", "embedded#/rho"}
    assert same(legacy, await legacy.read("embedded"), newer)
    assert same(legacy, await legacy.read("whole"), text("back again"))
    assert same(legacy, await legacy.read("two"), VALUES["two"])


async def test_a_target_that_was_written_since_stays_in_the_store(
    redis_values: RedisBackend, target: Settings
) -> None:
    migration = await migrated(redis_values, target)
    await overwrite(migration, "whole", OTHER)
    report = await migration.revert()
    assert (report.restored, report.withdrawn, report.code) == (5, 5, 4)
    assert set(report.left_alone) == {"whole"}
    assert "committed anew" in report.left_alone["whole"]
    assert set(await migration.contents()) == {"whole"}
    assert same_bits(await migration.matrix("whole"), OTHER)
    assert await as_it_was(redis_values)


async def test_what_was_there_before_the_migration_is_not_withdrawn(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    await fill(redis_values)
    migration = Migration(redis_values.open, sqlite, DISCOVER)
    async with migration.store() as store:
        await commit_matrix_update(store, {"whole": RHO})
    assert outcomes(await migration.copy())["identical"] == 1
    await migration.finalize()
    assert await redis_values.read("whole") is None
    report = await migration.revert()
    assert (report.restored, report.withdrawn, report.code) == (5, 5, 0)
    assert set(await migration.contents()) == {"whole"}
    assert await as_it_was(redis_values)


async def test_a_run_that_was_stopped_can_be_reverted(
    redis_values: RedisBackend, sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_VALUES", 2)
    await fill(redis_values)
    migration = Migration(redis_values.open, sqlite, DISCOVER)
    assert not (await migration.copy(pace=after_batches(2))).complete
    with pytest.raises(UsageError, match="has not come to its end"):
        await migration.finalize()
    with pytest.raises(UsageError, match="is copying"):
        await migration.forget()
    report = await migration.revert()
    assert (report.phase, report.code) == ("reverted", 0)
    assert await migration.contents() == {}


# Stopped on the way, done twice, done over.


@pytest.fixture
def batches_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_VALUES", 2)
    monkeypatch.setattr(revert, "RESTORE_VALUES", 1)


@pytest.mark.usefixtures("batches_of_two")
async def test_finalizing_and_reverting_go_on_where_they_were_stopped(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    migration = await migrated(redis_values, sqlite, finalized=False)
    stopped = await migration.finalize(pace=after_batches(1))
    assert (stopped.phase, stopped.complete, stopped.code) == ("finalizing", False, 4)
    with pytest.raises(UsageError, match="is finalizing"):
        await migration.copy()
    total = stopped.finalized + (await migration.finalize()).finalized
    assert total == 5
    halfway = await migration.revert(pace=after_batches(3))
    assert (halfway.phase, halfway.complete, halfway.restored) == ("reverting", False, 3)
    for verb in (migration.finalize, migration.copy):
        with pytest.raises(UsageError, match="is reverting"):
            await verb()
    rest = await migration.revert()
    assert (rest.phase, halfway.restored + rest.restored, rest.code) == ("reverted", 5, 0)
    assert await as_it_was(redis_values)
    assert await migration.contents() == {}


async def test_of_two_passes_the_last_one_is_finalized(redis_values: RedisBackend, sqlite: Settings) -> None:
    """What the first one knew of a value that changed in between is out of date, and none counts twice."""
    migration = await migrated(redis_values, sqlite, finalized=False)
    await redis_values.put({"note": text({"rho": RHO.tolist()}), "whole": b"1"})
    second = await migration.copy()
    assert outcomes(second) == {"identical": 5, "migrate": 1, "not-a-matrix": 1, "rejected": 2}
    report = await migration.finalize()
    assert (report.finalized, report.left_alone, report.code) == (5, {}, 0)
    assert await redis_values.read("whole") == b"1"
    assert shown(await redis_values.read("note")) == {"rho": "note#/rho"}
    reverted = await migration.revert()
    assert (reverted.restored, reverted.withdrawn) == (5, 7)
    assert await migration.contents() == {}


async def test_a_migration_can_be_run_again_after_it_was_finalized(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    """References are no matrices; what came since is migrated; and the revert knows of both passes."""
    migration = await migrated(redis_values, sqlite)
    await redis_values.put({"new": text(density(3).tolist())})
    again = await migration.copy()
    assert outcomes(again) == {"migrate": 1, "not-a-matrix": 3, "rejected": 2}
    assert again.reasons["not-a-matrix: an object without `__np__`"].count == 3
    assert (await migration.finalize()).finalized == 1
    report = await migration.revert()
    assert (report.restored, report.withdrawn, report.code) == (6, 7, 0)
    assert await as_it_was(redis_values)


async def test_a_value_written_anew_after_it_was_finalized_keeps_the_original_of_the_first(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    migration = await migrated(redis_values, sqlite)
    await redis_values.put({"whole": text(numpy_form(OTHER))})
    report = await migration.copy()
    assert [row.key for row in report.conflicts] == ["whole"]
    assert (await migration.finalize()).code == 0
    assert await redis_values.read("whole") == text(numpy_form(OTHER))
    reverted = await migration.revert()
    assert (reverted.restored, set(reverted.left_alone)) == (4, {"whole"})
    assert await redis_values.read("whole") == text(numpy_form(OTHER))


async def test_a_value_whose_original_the_store_cannot_keep_stays_and_stops_no_other(
    redis_values: RedisBackend, sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = await migrated(redis_values, sqlite, finalized=False)
    monkeypatch.setattr(finalize, "MAX_ORIGINAL_BYTES", 0)
    done = await migration.finalize()
    assert (done.phase, done.finalized, len(done.left_alone), done.code) == ("finalized", 0, 5, 4)
    assert all("more than the store keeps" in why for why in done.left_alone.values())
    assert await as_it_was(redis_values)
    monkeypatch.undo()
    assert (await migration.finalize()).finalized == 5

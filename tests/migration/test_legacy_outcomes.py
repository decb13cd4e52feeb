"""The old service's own values, all 481 of them, from real servers: each ends as the README demands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from migration import legacy
from migration.legacy import LISTS, SQUARE, Wanted
from migration.running import DISCOVER, WHOLE, Migration, by_place, outcomes, reasons, same_bits, without
from servers.redis import RedisServer
from somactl.config import Settings
from somactl.legacy.request import MigrationRequest, Selection
from somactl.legacy.source.postgres import PostgresSource
from somactl.legacy.source.redis import RedisSource
from somactl.operations.admission import Policy
from somactl.report import MigrationRow

Make = Callable[..., Migration]
SOURCES = ("postgres", "redis")


@pytest.fixture
def make(sqlite: Settings, legacy_postgres: str, legacy_redis: RedisServer) -> Make:
    def migration(source: str, wishes: MigrationRequest = WHOLE) -> Migration:
        if source == "postgres":
            return Migration(lambda **options: PostgresSource(legacy_postgres, **options), sqlite, wishes)
        return Migration(lambda **options: RedisSource(legacy_redis.url, **options), sqlite, wishes)

    return migration


def found(rows: list[MigrationRow]) -> dict[tuple[str, str], Wanted]:
    return {
        place: Wanted(row.outcome, row.form, row.reason, row.kind, row.dtype, row.target)
        for place, row in by_place(rows).items()
    }


@pytest.mark.parametrize("source", SOURCES)
async def test_every_whole_value_ends_as_it_must(make: Make, source: str) -> None:
    report, rows = await make(source).inspect()
    assert len({row.key for row in rows}) == report.values == 481
    assert found(rows) == legacy.whole_values(source)
    assert outcomes(report) == {"migrate": 15, "not-a-matrix": 461, "rejected": 5}
    assert report.code == 3


@pytest.mark.parametrize("source", SOURCES)
async def test_every_node_ends_as_it_must(make: Make, source: str) -> None:
    report, rows = await make(source, DISCOVER).inspect()
    assert found(rows) == legacy.everywhere(source)
    assert outcomes(report) == {"migrate": 55, "not-a-matrix": 421, "rejected": 5}
    assert report.pointers == {"": 20, "/rho": 20, "/value/rho": 20}
    assert {name: tally.count for name, tally in report.kinds.items()} == {"rho": 54, "sketch": 1}


async def test_both_sources_tell_the_same_but_for_what_redis_has_of_its_own(make: Make) -> None:
    """Digests and sizes are of bytes, and JSONB spells the same JSON with other blanks."""
    by_source = {}
    for source in SOURCES:
        _, rows = await make(source, DISCOVER).inspect()
        by_source[source] = {
            place: without(row, "source", "json_bytes") for place, row in by_place(rows).items()
        }
    postgres, redis = by_source["postgres"], by_source["redis"]
    assert postgres.keys() == redis.keys()
    different = {place for place in postgres if postgres[place] != redis[place]}
    metas = {(key, "") for key in legacy.values() if legacy.group(key) == "meta"}
    assert different == metas | {("acme:note:text", "")}
    assert len(metas) == legacy.METAS


@pytest.mark.parametrize("source", SOURCES)
async def test_what_was_copied_is_bit_for_bit_what_the_json_says(make: Make, source: str) -> None:
    """All but the one that is negative within tolerance and is clamped, which the report says."""
    migration = make(source, DISCOVER)
    report = await migration.copy()
    assert (report.phase, report.code, outcomes(report)["migrate"]) == ("copied", 3, 55)
    wanted = {w.target: place for place, w in legacy.everywhere(source).items() if w.outcome == "migrate"}
    assert set(await migration.contents()) == set(wanted)
    for target, (key, pointer) in wanted.items():
        stored, said = await migration.matrix(target), legacy.matrix(legacy.at(key, pointer))
        if key == "acme:rho:tinyneg":
            assert not same_bits(stored, said)
            assert 0 < np.linalg.norm(stored - said) <= report.moved[0].moves[0].distance * (1 + 1e-9)
        else:
            assert same_bits(stored, said), target
    assert [(row.key, [move.method for move in row.moves]) for row in report.moved] == [
        ("acme:rho:tinyneg", ["clamp"])
    ]
    assert report.moved[0].moves[0].distance < 1e-8


@pytest.mark.parametrize("source", SOURCES)
async def test_the_rejected_ones_say_why_with_the_verdict(make: Make, source: str) -> None:
    report, _ = await make(source).inspect()
    rows = {row.key: row for row in report.rejected}
    assert set(rows) == set(legacy.BROKEN)
    trace, neg, asym = (rows[f"acme:rho:{name}"] for name in ("trace", "neg", "asym"))
    for row in (trace, neg, asym):
        assert row.verdict is not None
        assert row.verdict.status == "violated"
        assert row.key in row.why
    assert trace.verdict
    assert trace.verdict.trace_error == pytest.approx(0.01, rel=1e-6)
    assert neg.verdict
    assert neg.verdict.lambda_min_upper is not None
    assert neg.verdict.lambda_min_upper < -1e-5
    assert asym.verdict
    assert asym.verdict.hermitian_error == pytest.approx(1e-3, rel=1e-3)
    assert "3 bytes where shape [4, 4] of float64 takes 128" in rows["acme:broken:b64"].why
    assert "ragged" in rows["acme:broken:ragged"].why
    assert rows["acme:broken:b64"].verdict is None
    assert rows["acme:broken:ragged"].verdict is None
    assert reasons(report)["rejected: InvariantViolated, violated"] == 3
    assert reasons(report)["rejected: InvalidJson"] == 2


async def test_a_pointer_looks_at_one_node_of_each_value_and_at_nothing_else(make: Make) -> None:
    report, rows = await make("redis", MigrationRequest(selection=Selection(("/rho",)))).inspect()
    matrices = {(row.key, row.pointer) for row in rows if row.outcome != "not-a-matrix"}
    assert matrices == {(key, "/rho") for key in legacy.values() if legacy.group(key) == "embedded"}
    assert (outcomes(report), report.code) == ({"migrate": 20, "not-a-matrix": 461}, 0)
    both, _ = await make("redis", MigrationRequest(selection=Selection(("/rho", "/value/rho", "")))).inspect()
    assert both.pointers == {"": 20, "/rho": 20, "/value/rho": 20}


async def test_a_pattern_chooses_keys(make: Make) -> None:
    for source in SOURCES:
        report, rows = await make(source, MigrationRequest(match="acme:rho:list:*")).inspect()
        assert [row.key for row in rows] == sorted(LISTS)
        assert (report.values, outcomes(report)) == (4, {"migrate": 4})


async def test_asked_for_matrices_nothing_has_to_hold_an_invariant(make: Make) -> None:
    report, rows = await make("postgres", MigrationRequest(selection=Selection(kind="matrix"))).inspect()
    assert outcomes(report) == {"migrate": 18, "not-a-matrix": 461, "rejected": 2}
    assert {row.kind for row in rows if row.outcome == "migrate"} == {"matrix"}
    assert all(not row.moves for row in rows)


async def test_normalizing_admits_the_one_whose_trace_is_off(make: Make) -> None:
    migration = make("redis", MigrationRequest(match="acme:rho:trace", policy=Policy(normalize=True)))
    report = await migration.copy()
    assert (outcomes(report), report.code) == ({"migrate": 1}, 0)
    (row,) = report.moved
    stored, said = await migration.matrix(row.key), legacy.matrix(legacy.values()[row.key])
    assert abs(np.trace(stored) - 1) < 1e-12
    assert [move.method for move in row.moves] == ["normalize"]
    assert row.moves[0].distance == pytest.approx(np.linalg.norm(stored - said), rel=1e-6)


async def test_clamping_admits_the_negative_one_if_it_may_be_moved_far_enough(make: Make) -> None:
    """Its smallest eigenvalue is about -3e-4, so that it has to be moved by at least that."""
    wishes = MigrationRequest(match="acme:rho:neg", policy=Policy(clamp=True, max_move=1e-5))
    refused, rows = await make("postgres", wishes).inspect()
    assert (outcomes(refused), refused.code) == ({"rejected": 1}, 3)
    assert "allowed; it is no density matrix" in rows[0].why
    migration = make("postgres", replace(wishes, policy=Policy(clamp=True, max_move=1e-2)))
    report = await migration.copy()
    assert (outcomes(report), report.code) == ({"migrate": 1}, 0)
    (row,) = report.moved
    stored, said = await migration.matrix(row.key), legacy.matrix(legacy.values()[row.key])
    assert row.moves[0].method == "clamp"
    assert 3e-4 * 0.9 < row.moves[0].distance < 1e-2
    assert row.moves[0].distance == pytest.approx(np.linalg.norm(stored - said), rel=1e-6)
    assert np.linalg.eigvalsh(stored)[0] > -1e-12


async def test_refusing_to_clamp_rejects_the_one_that_is_negative_within_tolerance(make: Make) -> None:
    wishes = MigrationRequest(match="acme:rho:tinyneg", policy=Policy(on_clampable="refuse"))
    report, rows = await make("redis", wishes).inspect()
    assert (outcomes(report), rows[0].reason) == ({"rejected": 1}, "InvariantViolated, clampable")
    assert rows[0].verdict is not None
    assert rows[0].verdict.status == "clampable"


def test_the_table_above_names_every_key_that_stands_in_the_readme() -> None:
    groups = [legacy.group(key) for key in legacy.values()]
    assert {name: groups.count(name) for name in set(groups)} == {
        "data": legacy.NOTES,
        "meta": legacy.METAS,
        "embedded": legacy.EMBEDDED,
        "wal": legacy.LOGGED,
        "named": 21,
    }
    for key, rows in (SQUARE | LISTS).items():
        assert legacy.matrix(legacy.values()[key]).shape == (rows, rows) or not rows

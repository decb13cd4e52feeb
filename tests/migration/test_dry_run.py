"""A dry run cannot write: the servers themselves say so. And two of them say the same, byte for byte."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg
import msgspec
import pytest

from migration.conftest import initialised
from migration.forms import density, numpy_form, text
from migration.places import RHO, VALUES, fill
from migration.running import DISCOVER, Migration, of_lines, outcomes
from servers.external import ExternalPostgres
from servers.postgres import PostgresServer
from servers.redis import RedisServer
from somactl.config import Settings
from somactl.errors import NamespaceNotFound, ReadOnlyStore
from somactl.legacy.copying import copy
from somactl.legacy.source.postgres import PostgresSource
from somactl.legacy.source.redis import RedisSource
from somactl.operations.commit import commit_matrix_update
from somactl.report import MigrationRow
from source.backends import Backend, PostgresBackend, RedisBackend

WRITES = {
    "append", "copy", "decr", "del", "expire", "expireat", "flushdb", "getdel", "getex", "getset", "hdel",
    "hincrby", "hset", "hsetnx", "incr", "incrby", "lpush", "ltrim", "mset", "pexpire", "pexpireat",
    "persist", "psetex", "rename", "restore", "rpush", "sadd", "set", "setex", "setnx", "spop", "srem",
    "unlink", "xadd", "xtrim", "zadd", "zincrby", "zrem", "zremrangebyrank", "zremrangebyscore",
}  # fmt: skip
"""What changes a Redis; a script's own commands are counted like any client's."""


@dataclass(frozen=True)
class Used:
    """What a Redis did since the last look: its commands, and how often its data changed (its own count)."""

    commands: set[str]
    changes: int


def used(server: RedisServer) -> Used:
    with server.client() as raw:
        stats, changes = raw.info("commandstats"), raw.info("persistence")["rdb_changes_since_last_save"]
        raw.config_resetstat()
    last = _changes.get(server.url, 0)
    _changes[server.url] = changes
    return Used({name.removeprefix("cmdstat_") for name in stats}, changes - last)


_changes: dict[str, int] = {}


async def next_transaction(server: PostgresServer | ExternalPostgres) -> int:
    """The number that the server's next writing transaction will have. Asking takes none."""
    connection = await asyncpg.connect(**{**server.admin(), "database": "postgres"})
    try:
        statement = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
        return int(await connection.fetchval(statement))
    finally:
        await connection.close()


async def undisturbed(
    server: PostgresServer | ExternalPostgres, work: Callable[[], Awaitable[None]]
) -> tuple[int, int]:
    """The numbers before and after `work`. Autovacuum takes some too, so a try that it met is repeated."""
    before = after = 0
    for _ in range(5):
        before = await next_transaction(server)
        await work()
        after = await next_transaction(server)
        if before == after:
            break
    return before, after


async def test_the_measure_of_transactions_sees_a_single_write(
    postgres_server: PostgresServer | ExternalPostgres,
) -> None:
    url = postgres_server.create_database()

    async def execute(statement: str) -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(statement)
        await connection.close()

    before, after = await undisturbed(postgres_server, lambda: execute("SELECT 1"))
    assert before == after
    for statement in ("CREATE TABLE t (x int)", "INSERT INTO t VALUES (1)"):
        before = await next_transaction(postgres_server)
        await execute(statement)
        assert await next_transaction(postgres_server) > before
    postgres_server.drop_database(url)


@pytest.mark.parametrize("cached", [False, True], ids=["postgres", "hybrid"])
async def test_postgres_counts_no_transaction_that_writes(
    postgres_server: PostgresServer | ExternalPostgres,
    legacy_postgres: str,
    clean_redis: RedisServer,
    cached: bool,
) -> None:
    """Source and target are databases of one server, and the numbers are the server's."""
    url = postgres_server.create_database()
    settings = Settings(store=url, cache=clean_redis.url if cached else "", read_timeout=2.0)
    await asyncio.to_thread(initialised, settings)
    migration = Migration(lambda **options: PostgresSource(legacy_postgres, **options), settings, DISCOVER)
    async with migration.store() as store:
        await commit_matrix_update(store, {"acme:rho:0": RHO, "acme:rho:1": RHO})
    with clean_redis.client() as raw:
        held = sorted(raw.keys("*"))
    used(clean_redis)

    async def dry_run() -> None:
        report, _ = await migration.inspect()
        assert outcomes(report) == {"conflict": 2, "migrate": 53, "not-a-matrix": 421, "rejected": 5}
        assert (report.phase, report.dry_run, report.migration) == ("planned", True, None)

    before, after = await undisturbed(postgres_server, dry_run)
    assert before == after
    cache = used(clean_redis)
    assert (cache.commands & WRITES, cache.changes) == (set(), 0)
    with clean_redis.client() as raw:
        assert sorted(raw.keys("*")) == held
    # That the measure would have seen it: the same run, not dry, moves both.
    await migration.copy()
    assert await next_transaction(postgres_server) > after
    if cached:
        async with migration.store() as store:
            await store.read("acme:rho:2")
        cache = used(clean_redis)
        assert cache.commands & WRITES
        assert cache.changes > 0
    postgres_server.drop_database(url)


async def test_redis_sees_only_commands_that_read(
    legacy_redis: RedisServer, clean_redis: RedisServer
) -> None:
    """As the source, and as the target with values in it."""
    settings = Settings(store=clean_redis.url)
    await asyncio.to_thread(initialised, settings)
    migration = Migration(lambda **options: RedisSource(legacy_redis.url, **options), settings, DISCOVER)
    async with migration.store() as store:
        await commit_matrix_update(store, {"acme:rho:0": RHO})
    with clean_redis.client() as raw:
        held = {key: raw.dump(key) for key in raw.keys("*")}
    used(clean_redis)
    used(legacy_redis)
    report, _ = await migration.inspect()
    assert outcomes(report) == {"conflict": 1, "migrate": 54, "not-a-matrix": 421, "rejected": 5}
    source, target = used(legacy_redis), used(clean_redis)
    for server in (source, target):
        assert (server.commands & WRITES, server.changes) == (set(), 0)
    assert {"scan", "get", "strlen", "type"} <= source.commands
    assert {"evalsha", "zrange"} & target.commands, "it was asked"
    with clean_redis.client() as raw:
        assert {key: raw.dump(key) for key in raw.keys("*")} == held
    await migration.copy()
    source, target = used(legacy_redis), used(clean_redis)
    assert target.commands & WRITES
    assert target.changes > 0
    assert (source.commands & WRITES, source.changes) == (set(), 0), "nor does a copy write to the source"


async def test_a_file_that_does_not_exist_is_not_made(sqlite: Settings) -> None:
    migration = of_lines(VALUES, sqlite, DISCOVER)
    report, _ = await migration.inspect()
    assert not Path(sqlite.store.removeprefix("sqlite:///")).exists()
    assert "does not exist yet" in report.warnings[0]
    assert outcomes(report) == outcomes(await migration.copy())


async def test_a_file_stays_the_same_to_the_byte(sqlite: Settings) -> None:
    migration = of_lines(VALUES, sqlite, DISCOVER)
    async with migration.store() as store:
        await commit_matrix_update(store, {"whole": RHO, "lists": RHO})
    path = Path(sqlite.store.removeprefix("sqlite:///"))
    before = path.read_bytes()
    report, _ = await migration.inspect()
    assert path.read_bytes() == before
    assert outcomes(report) == {"conflict": 1, "identical": 1, "migrate": 4, "not-a-matrix": 1, "rejected": 2}


# Stable.


@pytest.fixture(params=["redis", "postgres"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "redis":
        made: Backend = RedisBackend(request.getfixturevalue("clean_redis"))
    else:
        made = PostgresBackend(request.getfixturevalue("postgres_server"))
    yield made
    made.dispose()


async def test_two_dry_runs_are_equal_byte_for_byte_in_whatever_order_the_values_were_written(
    backend: Backend, sqlite: Settings
) -> None:
    more = {f"k{i:03d}": text(numpy_form(density(3, seed=i))) for i in range(40)}
    await fill(backend)
    await backend.put(more)
    migration = Migration(backend.open, sqlite, DISCOVER)
    first, rows = await migration.inspect()
    second, again = await migration.inspect()
    for key in reversed([*VALUES, *more]):
        await backend.put({key: None})
        await backend.put({key: {**VALUES, **more}[key]})
    third, other = await migration.inspect()
    for report, found in ((second, again), (third, other)):
        assert msgspec.json.encode(report) == msgspec.json.encode(first)
        assert msgspec.json.encode(found) == msgspec.json.encode(rows)
    assert [row.key for row in rows] == sorted((row.key for row in rows), key=str.encode)


async def test_reports_of_two_servers_and_two_days_do_not_differ(
    clean_redis: RedisServer, sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a clock nor a host nor a port stands in them, nor the version of a library."""
    backend = RedisBackend(clean_redis)
    await fill(backend)
    by_name = Migration(
        lambda **o: RedisSource(clean_redis.url.replace("127.0.0.1", "localhost"), **o), sqlite, DISCOVER
    )
    first, _ = await Migration(backend.open, sqlite, DISCOVER).inspect()
    later = time.time() + 86_400
    monkeypatch.setattr(time, "time", lambda: later)
    second, _ = await by_name.inspect()
    encoded = msgspec.json.encode(first)
    assert msgspec.json.encode(second) == encoded
    for secret in (b"127.0.0.1", str(clean_redis.port).encode(), b"localhost", b"sqlite:///"):
        assert secret not in encoded


async def test_a_dry_run_and_the_real_one_end_alike(backend: Backend, sqlite: Settings) -> None:
    await fill(backend)
    migration = Migration(backend.open, sqlite, DISCOVER)
    async with migration.store() as store:
        await commit_matrix_update(store, {"whole": RHO, "two#/a": density(4, seed=7)})
    dry, _ = await migration.inspect()
    real = await migration.copy()

    def without_what_must_differ(report: object) -> object:
        return replace_fields(report, migration=None, phase="", dry_run=False)

    assert without_what_must_differ(dry) == without_what_must_differ(real)


def replace_fields(report: object, **changes: object) -> object:
    return msgspec.structs.replace(report, **changes)  # type: ignore[type-var]


async def test_nothing_goes_through_a_store_that_refuses_writes(sqlite: Settings) -> None:
    """The leaf itself is read-only: had `look` tried to write, it would have raised."""
    migration = of_lines(VALUES, sqlite, DISCOVER)
    await migration.copy()
    async with migration.context(read_only=True) as run:
        with pytest.raises(ReadOnlyStore):
            await copy(run)


async def test_rows_are_told_one_by_one_in_the_order_of_keys(sqlite: Settings) -> None:
    _, rows = await of_lines(VALUES, replace(sqlite), DISCOVER).inspect()
    assert isinstance(rows[0], MigrationRow)
    assert [row.key for row in rows] == sorted(row.key for row in rows)


async def test_a_namespace_of_a_server_that_was_not_initialised_is_looked_at_as_empty_and_not_written_to(
    postgres_server: PostgresServer | ExternalPostgres, tmp_path: Path
) -> None:
    """A server's operator makes namespaces, and no migration does in passing; a plan for one that is made
    later is good."""
    url = postgres_server.create_database()
    migration = of_lines(VALUES, Settings(store=url), DISCOVER)
    report = await migration.plan(tmp_path / "plan")
    assert outcomes(report) == {"migrate": 6, "not-a-matrix": 1, "rejected": 2}
    assert "does not exist yet" in report.warnings[0]
    for attempt in (migration.copy(), migration.apply(tmp_path / "plan")):
        with pytest.raises(NamespaceNotFound):
            await attempt
    await asyncio.to_thread(initialised, migration.settings)
    assert (await migration.apply(tmp_path / "plan")).phase == "copied"
    postgres_server.drop_database(url)

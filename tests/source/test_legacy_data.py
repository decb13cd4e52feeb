"""What the old service itself wrote: all of it is found, and nothing of it changes by being read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from servers.external import ExternalPgBouncer, ExternalPostgres
from servers.pgbouncer import PgBouncer
from servers.postgres import PostgresServer
from servers.redis import RedisServer
from somactl.legacy.source.contract import Change, Source, Value
from somactl.legacy.source.postgres import PostgresSource
from somactl.legacy.source.redis import RedisSource
from source.suite import all_names, all_values

KEYS = 481
READS = {
    "scan",
    "type",
    "strlen",
    "get",
    "pexpiretime",
    "info",
    "time",
    "hello",
    "select",
    "client|setinfo",
    "client|setname",
    "ping",
}


async def everything(source: Source) -> dict[str, Value]:
    try:
        names = await all_names(source)
        values = await all_values(source, names)
        assert len({*names}) == len(names) == len(values)
        return {value.key: value for value in values}
    finally:
        await source.close()


def parsed(value: Value) -> Any:
    """The JSON; the old service wrote a bare text to Redis where PostgreSQL has a JSON string."""
    try:
        return json.loads(value.data)
    except ValueError:
        return value.data.decode()


async def test_both_servers_hold_the_same_values(legacy_postgres: str, legacy_redis: RedisServer) -> None:
    in_postgres = await everything(PostgresSource(legacy_postgres))
    in_redis = await everything(RedisSource(legacy_redis.url))
    assert len(in_postgres) == len(in_redis) == KEYS
    assert in_postgres.keys() == in_redis.keys()
    hashes = {key for key in in_redis if key.endswith(":meta")}
    assert len(hashes) == 220
    for key, value in in_redis.items():
        assert in_postgres[key].state == "text"
        if key in hashes:
            assert value == Value(key, "other", detail="a Redis hash")
        else:
            assert parsed(value) == parsed(in_postgres[key]), key


async def test_postgres_holds_the_reader_to_reading(
    legacy_postgres_copy: str, postgres_server: PostgresServer | ExternalPostgres
) -> None:
    database = urlsplit(legacy_postgres_copy).path.removeprefix("/")

    def written() -> list[tuple[Any, ...]]:
        """Transaction ids of the whole server, and what was ever written in this database."""
        return postgres_server.run(
            "SELECT pg_snapshot_xmax(pg_current_snapshot())::text, n_tup_ins, n_tup_upd, n_tup_del "
            "FROM pg_stat_user_tables WHERE relname = 'kv_store'",
            database,
        )

    before = written()
    assert len(await everything(PostgresSource(legacy_postgres_copy))) == KEYS
    assert written() == before


async def test_the_server_itself_would_refuse_a_write(legacy_postgres_copy: str) -> None:
    """Not only does the client not ask: what it would ask fails."""
    source = PostgresSource(legacy_postgres_copy)
    async with source._session() as session, session.transaction(snapshot=True):
        assert await session.connection.fetchval("SHOW transaction_read_only") == "on"
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await session.execute("DELETE FROM kv_store")
    await source.close()


async def test_redis_gets_commands_that_read_and_no_others(legacy_redis_copy: RedisServer) -> None:
    with legacy_redis_copy.client() as raw:
        raw.config_resetstat()
        before = raw.info("persistence")["rdb_changes_since_last_save"]
    source = RedisSource(legacy_redis_copy.url)
    with pytest.raises(Exception, match="open for reading only"):
        await source.swap([Change("acme:note:text", None, b"1")])
    assert len(await everything(source)) == KEYS
    with legacy_redis_copy.client() as raw:
        sent = {name.removeprefix("cmdstat_") for name in raw.info("commandstats")}
        assert sent - {"config|resetstat"} <= READS
        assert raw.info("persistence")["rdb_changes_since_last_save"] == before


async def test_a_pooler_may_stand_between(
    legacy_postgres_copy: str, pgbouncer: PgBouncer | ExternalPgBouncer
) -> None:
    database = urlsplit(legacy_postgres_copy).path.removeprefix("/")
    assert len(await everything(PostgresSource(pgbouncer.url(database)))) == KEYS


@pytest.fixture
def writable(
    request: pytest.FixtureRequest, legacy_postgres_copy: str, legacy_redis_copy: RedisServer
) -> Callable[[], Source]:
    if request.param == "postgres":
        return lambda: PostgresSource(legacy_postgres_copy, read_only=False)
    return lambda: RedisSource(legacy_redis_copy.url, read_only=False)


@pytest.mark.parametrize("writable", ["postgres", "redis"], indirect=True)
async def test_every_text_is_removed_and_put_back(writable: Callable[[], Source]) -> None:
    before = await everything(writable())
    texts = {key: value.data for key, value in before.items() if value.state == "text"}
    source = writable()
    assert all(await source.swap([Change(key, data, None) for key, data in texts.items()]))
    assert {value.state for value in await all_values(source, list(texts))} == {"gone"}
    assert all(await source.swap([Change(key, None, data) for key, data in texts.items()]))
    await source.close()
    assert await everything(writable()) == before

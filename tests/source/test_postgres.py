"""The table of the old service: which it is, what it may be, and what goes wrong on the way to it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from servers.external import ExternalPostgres
from servers.postgres import PostgresServer
from servers.process import free_port
from somactl.errors import (
    AccessDenied,
    ConfigurationError,
    NotFound,
    OutcomeUnknown,
    SomactlError,
    StoreUnavailable,
)
from somactl.legacy.source import postgres
from somactl.legacy.source.contract import Change, Value
from somactl.legacy.source.postgres import PostgresSource
from source.backends import TABLE, PostgresBackend
from source.suite import all_names, all_values, value_of

Maker = Callable[..., PostgresBackend]


ROLE = "somactl_test_reader"


@pytest.fixture
def role(postgres_server: PostgresServer | ExternalPostgres) -> Iterator[str]:
    """A role without rights, of the password `secret-pass`."""
    postgres_server.run(f"DROP ROLE IF EXISTS {ROLE}")
    postgres_server.run(f"CREATE ROLE {ROLE} LOGIN PASSWORD 'secret-pass'")
    yield ROLE
    postgres_server.run(f"DROP ROLE {ROLE}")


@pytest.fixture
def make(postgres_server: PostgresServer | ExternalPostgres, role: str) -> Iterator[Maker]:
    """Makes databases, which are gone before the role is."""
    made: list[PostgresBackend] = []

    def make_backend(table: str = TABLE, **options: str) -> PostgresBackend:
        made.append(PostgresBackend(postgres_server, table=table, **options))
        return made[-1]

    yield make_backend
    for backend in made:
        backend.dispose()


@pytest_asyncio.fixture
async def open_() -> AsyncIterator[Callable[..., PostgresSource]]:
    opened: list[PostgresSource] = []

    def open_source(url: str, **options: bool) -> PostgresSource:
        opened.append(PostgresSource(url, **options))
        return opened[-1]

    yield open_source
    for source in opened:
        await source.close()


@pytest.mark.parametrize(
    ("table", "error", "says", "code"),
    [
        ("SELECT 1", NotFound, "has no table kv_store", 15),
        (
            "CREATE VIEW kv_store AS SELECT 'a' AS key, '1'::jsonb AS value",
            ConfigurationError,
            "no table",
            10,
        ),
        ("CREATE TABLE kv_store (key text PRIMARY KEY)", ConfigurationError, "no column value", 10),
        ("CREATE TABLE kv_store (id int PRIMARY KEY, value jsonb)", ConfigurationError, "no column key", 10),
        (
            "CREATE TABLE kv_store (key text PRIMARY KEY, value bytea)",
            ConfigurationError,
            "of type bytea",
            10,
        ),
        (
            "CREATE TABLE kv_store (key int PRIMARY KEY, value jsonb)",
            ConfigurationError,
            "of type integer",
            10,
        ),
        ("CREATE TABLE kv_store (key text, value jsonb)", ConfigurationError, "standing twice", 10),
        (
            "CREATE TABLE kv_store (key text, n int, value jsonb, PRIMARY KEY (key, n))",
            ConfigurationError,
            "standing twice",
            10,
        ),
        (
            "CREATE TABLE kv_store (key text, value jsonb);"
            "CREATE UNIQUE INDEX ON kv_store (key) WHERE value IS NOT NULL",
            ConfigurationError,
            "standing twice",
            10,
        ),
    ],
)
async def test_another_table_is_refused_with_a_reason(
    make: Maker,
    open_: Callable[..., PostgresSource],
    table: str,
    error: type[SomactlError],
    says: str,
    code: int,
) -> None:
    source = open_(make(table).url)
    for call in (lambda: all_names(source), lambda: source.fetch(["a"])):
        with pytest.raises(error, match=says) as caught:
            await call()
        assert caught.value.exit_code == code
        assert caught.value.hint


@pytest.mark.parametrize("type_", ["json", "text", "varchar", "varchar(400)"])
async def test_values_may_be_json_as_it_was_written(
    make: Maker, open_: Callable[..., PostgresSource], type_: str
) -> None:
    backend = make(f"CREATE TABLE kv_store (key varchar(50) PRIMARY KEY, value {type_} NOT NULL)")
    written = b'{"b":  1, "a": 1.50, "b": 2}'
    await backend.put({"a": written})
    source = open_(backend.url, read_only=False)
    assert await all_names(source) == ["a"]
    assert await source.fetch(["a"]) == [Value("a", "text", written)]
    assert await source.swap([Change("a", written, b"[1,  2]")]) == [True]
    assert await source.swap([Change("a", written, b"[1,  2]")]) == [True]
    assert await source.fetch(["a"]) == [Value("a", "text", b"[1,  2]")]


async def test_jsonb_is_compared_as_it_is_spelt_there(
    make: Maker, open_: Callable[..., PostgresSource]
) -> None:
    """Who puts back what he had written himself knows only his own spelling."""
    backend = make()
    source = open_(backend.url, read_only=False)
    mine = b'{"bb":1,"a":1.50}'
    assert await source.swap([Change("a", None, mine)]) == [True]
    assert await source.fetch(["a"]) == [Value("a", "text", b'{"a": 1.50, "bb": 1}')]
    assert await source.swap([Change("a", None, mine)]) == [True]
    assert await source.swap([Change("a", b'{"a": 1.5, "bb": 1}', None)]) == [False]
    assert await source.swap([Change("a", mine, None)]) == [True]


async def test_a_null_is_said_to_be_one(make: Maker, open_: Callable[..., PostgresSource]) -> None:
    backend = make("CREATE TABLE kv_store (key text PRIMARY KEY, value jsonb)")
    async with backend.raw() as raw:
        await raw.execute("INSERT INTO kv_store VALUES ('none', NULL), ('null', 'null')")
    assert await open_(backend.url).fetch(["none", "null"]) == [
        Value("none", "other", detail="an SQL NULL"),
        Value("null", "text", b"null"),
    ]


async def test_a_partitioned_table_is_read_whole(make: Maker, open_: Callable[..., PostgresSource]) -> None:
    backend = make(
        "CREATE TABLE kv_store (key text PRIMARY KEY, value jsonb) PARTITION BY HASH (key);"
        "CREATE TABLE p0 PARTITION OF kv_store FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE p1 PARTITION OF kv_store FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
    )
    await backend.put({f"key {number}": b"1" for number in range(100)})
    assert len(await all_names(open_(backend.url))) == 100


async def test_rows_that_are_hidden_from_the_role_are_not_missed_silently(
    make: Maker, open_: Callable[..., PostgresSource], role: str
) -> None:
    backend = make(
        f"{TABLE}; ALTER TABLE kv_store ENABLE ROW LEVEL SECURITY; GRANT SELECT ON kv_store TO {role}"
    )
    source = open_(re.sub("//[^@]*@", f"//{role}:secret-pass@", backend.url))
    with pytest.raises(AccessDenied, match="hides rows"):
        await all_names(source)


async def test_a_missing_right_is_named_with_the_grant_that_gives_it(
    make: Maker, open_: Callable[..., PostgresSource], role: str
) -> None:
    backend = make()
    await backend.put({"a": b"1"})
    source = open_(re.sub("//[^@]*@", f"//{role}:secret-pass@", backend.url), read_only=False)
    with pytest.raises(AccessDenied, match="permission denied") as caught:
        await all_names(source)
    assert 'GRANT SELECT ON "kv_store"' in str(caught.value.hint)
    async with backend.raw() as raw:
        await raw.execute(f"GRANT SELECT ON kv_store TO {role}")
    assert await all_names(source) == ["a"]
    with pytest.raises(AccessDenied, match="permission denied"):
        await source.swap([Change("a", b"1", b"2")])
    assert await backend.read("a") == b"1"


async def test_a_table_that_goes_away_meanwhile_is_said(
    make: Maker, open_: Callable[..., PostgresSource]
) -> None:
    backend = make()
    source = open_(backend.url)
    assert await all_names(source) == []
    async with backend.raw() as raw:
        await raw.execute("DROP TABLE kv_store")
    with pytest.raises(NotFound, match="has no table kv_store"):
        await source.fetch(["a"])


async def test_who_cannot_be_reached_or_lets_us_not_in_is_named_without_the_password(
    make: Maker, open_: Callable[..., PostgresSource]
) -> None:
    backend = make()
    wrong = re.sub(":[^:@/]*@", ":wrong-secret@", backend.url)
    with pytest.raises(AccessDenied) as caught:
        await open_(wrong).fetch(["a"])
    assert "wrong-secret" not in str(caught.value)
    missing = backend.url.replace(backend.database, "somactl_no_such_database")
    with pytest.raises(AccessDenied, match="no such database"):
        await all_names(open_(missing))
    with pytest.raises(StoreUnavailable, match="cannot be reached") as caught_too:
        await open_(f"postgresql://u:wrong-secret@127.0.0.1:{free_port()}/db").fetch(["a"])
    assert caught_too.value.exit_code == 13
    assert "wrong-secret" not in str(caught_too.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://h/db?table=", "'table' in the URL has no value"),
        ("postgresql://h/db?table=a&table=b", "gives 'table' twice"),
        ("postgresql://h/db?table=a&nonsense=1", "'nonsense'"),
        ("postgresql://h/db?pool_size=0", "pool_size"),
        ("mysql://h/db", "nothing is migrated from mysql"),
    ],
)
def test_a_url_that_is_not_understood_is_refused(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        PostgresSource(url)


def test_its_identity_holds_the_table_and_no_password() -> None:
    source = PostgresSource("postgresql://me:secret@h:5432/db?sslmode=disable&table=old.values")
    assert source.identity == "postgresql://me@h:5432/db?table=old.values"
    assert source.name == "postgres table old.values"


async def test_a_value_that_the_server_cannot_send_does_not_hide_the_others(
    make: Maker, open_: Callable[..., PostgresSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the server may use no disk for what a value takes; a damaged one fails in the same place."""
    backend = make()
    monkeypatch.setattr(postgres.sql, "WALK_SETTINGS", "SET LOCAL work_mem = '64kB'")
    large = value_of("large", 1 << 20)
    await backend.put({"a": b"1", "large": large, "z": b"2"})
    async with backend.raw() as raw:
        await raw.execute(f"ALTER DATABASE {backend.database} SET temp_file_limit = '64kB'")
    source = open_(backend.url)
    values = await all_values(source, ["a", "large", "z"])
    assert [value.state for value in values] == ["text", "unreadable", "text"]
    assert "temp_file_limit" in values[1].detail


async def test_a_change_that_the_server_cannot_make_does_not_stop_the_others(
    make: Maker, open_: Callable[..., PostgresSource]
) -> None:
    backend = make("CREATE TABLE kv_store (key text PRIMARY KEY, value jsonb CHECK (value <> '[13]'))")
    await backend.put({"a": b"1", "b": b"2", "c": b"3", "d": b"4"})
    changes = [
        Change("a", b"1", b"no JSON"),
        Change("b", b"2", b"[13]"),
        Change("c", b"3", b'"\\u0000"'),
        Change("d", b"4", b"\xff"),
        Change("e", None, b"5"),
    ]
    assert await open_(backend.url, read_only=False).swap(changes) == [False, False, False, False, True]
    assert [await backend.read(key) for key in "abcde"] == [b"1", b"2", b"3", b"4", b"5"]


async def test_a_row_that_somebody_is_changing_is_waited_for_and_compared_as_he_leaves_it(
    make: Maker, open_: Callable[..., PostgresSource]
) -> None:
    backend = make()
    await backend.put({"a": b"1", "b": b"1"})
    source = open_(backend.url, read_only=False)
    async with backend.raw() as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("UPDATE kv_store SET value = '9' WHERE key = 'a'")
        waiting = asyncio.create_task(source.swap([Change("a", b"1", b"2"), Change("b", b"1", b"2")]))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await transaction.commit()
        assert await waiting == [False, True]
    assert await backend.read("a") == b"9"


async def test_changes_whose_confirmation_is_lost_are_unknown_and_their_repetition_tells(
    make: Maker, open_: Callable[..., PostgresSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make()
    await backend.put({"a": b"1"})
    source = open_(backend.url, read_only=False)
    execute = postgres.Session.execute

    async def lose(session: postgres.Session, sql: str, *, extra: float = 0.0) -> str:
        tag = await execute(session, sql, extra=extra)
        if sql == "COMMIT":
            session.connection.terminate()
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
        return tag

    monkeypatch.setattr(postgres.Session, "execute", lose)
    with pytest.raises(OutcomeUnknown, match="did not confirm"):
        await source.swap([Change("a", b"1", b"2")])
    monkeypatch.undo()
    assert await source.swap([Change("a", b"1", b"2")]) == [True]


async def test_a_cancelled_call_gives_its_connection_to_nobody_else(
    make: Maker, open_: Callable[..., PostgresSource]
) -> None:
    backend = make()
    await backend.put({f"key {number}": value_of("k", 200_000) for number in range(50)})
    source = open_(backend.url)
    keys = await all_names(source)
    for _ in range(10):
        task = asyncio.create_task(source.fetch(keys))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        (value,) = await source.fetch(["key 7"])
        assert value == Value("key 7", "text", value_of("k", 200_000))


async def test_a_server_that_was_restarted_is_found_again(
    tmp_path: Path, open_: Callable[..., PostgresSource]
) -> None:
    with PostgresServer(tmp_path / "own") as server:
        backend = PostgresBackend(server)
        await backend.put({"a": b"1"})
        source = open_(backend.url)
        assert await all_names(source) == ["a"]
        server.stop()
        with pytest.raises(StoreUnavailable) as caught:
            await source.fetch(["a"])
        assert caught.value.retryable
        server.start()
        assert await source.fetch(["a"]) == [Value("a", "text", b"1")]


async def test_after_close_nothing_is_asked_any_more(make: Maker) -> None:
    source = PostgresSource(make().url)
    await source.close()
    with pytest.raises(SomactlError, match="after it was closed"):
        await source.fetch(["a"])


@pytest.fixture
def in_encoding(postgres_server: PostgresServer | ExternalPostgres) -> Iterator[Callable[[str], str]]:
    """Makes databases of another encoding, with the table."""
    made: list[str] = []

    def make_database(encoding: str) -> str:
        made.append(postgres_server.create_database())
        name = made[-1].rpartition("/")[2]
        postgres_server.run(f"DROP DATABASE {name}")
        postgres_server.run(
            f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        )
        postgres_server.run(TABLE, name)
        return made[-1]

    yield make_database
    for url in made:
        postgres_server.drop_database(url)


async def test_a_database_of_another_encoding_gives_utf8(
    in_encoding: Callable[[str], str], open_: Callable[..., PostgresSource]
) -> None:
    source = open_(in_encoding("LATIN1"), read_only=False)
    value = '"é"'.encode()
    assert await source.swap([Change("clé", None, value), Change("🎉", None, b"1")]) == [True, False]
    assert await all_names(source) == ["clé"]
    assert await source.fetch(["clé"]) == [Value("clé", "text", value)]
    assert await source.swap([Change("clé", value, '"🎉"'.encode())]) == [False]
    assert await source.swap([Change("clé", value, None)]) == [True]


async def test_bytes_without_a_meaning_spoil_their_own_value_alone(
    in_encoding: Callable[[str], str],
    open_: Callable[..., PostgresSource],
    postgres_server: PostgresServer | ExternalPostgres,
) -> None:
    """In a database of encoding SQL_ASCII, which takes any."""
    url = in_encoding("SQL_ASCII")
    database = url.rpartition("/")[2]
    bad = "('\"' || convert_from('\\xff', 'SQL_ASCII') || '\"')::jsonb"
    postgres_server.run(f"INSERT INTO kv_store VALUES ('a', '1'), ('bad', {bad}), ('c', '3')", database)
    source = open_(url)
    values = await all_values(source, await all_names(source))
    assert [(value.key, value.state) for value in values] == [
        ("a", "text"),
        ("bad", "unreadable"),
        ("c", "text"),
    ]
    assert "invalid byte sequence" in values[1].detail
    postgres_server.run("INSERT INTO kv_store VALUES (convert_from('\\xfe', 'SQL_ASCII'), '4')", database)
    with pytest.raises(StoreUnavailable, match="holds what cannot be read") as caught:
        await all_names(source)
    assert not caught.value.retryable

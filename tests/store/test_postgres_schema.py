"""The schema files, their application, the named statements, and two releases side by side."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from servers.postgres import Databases
from somactl.errors import AccessDenied, ConfigurationError, NamespaceNotFound, SchemaMismatch
from somactl.package_data import data_file
from somactl.store.postgres import PostgresStore, schema
from somactl.store.postgres.schema import Migration
from somactl.testing.values import delete, listed, put
from store.postgres_backend import Opener, PostgresBackend, backend as backend, opener as opener

ALL = list(range(1, schema.SCHEMA_VERSION + 1))
ADD_COLUMN = "ALTER TABLE somactl.namespace ADD COLUMN more text NOT NULL DEFAULT 'x'"
NEXT = Migration(schema.SCHEMA_VERSION + 1, ADD_COLUMN, 1, 1)


def next_release(monkeypatch: pytest.MonkeyPatch, migration: Migration = NEXT) -> None:
    """From now on this is the next release, with one more file."""
    files = [*schema.migrations(), migration]
    monkeypatch.setattr(schema, "migrations", lambda: files)
    monkeypatch.setattr(schema, "SCHEMA_VERSION", migration.number)


async def versions(backend: PostgresBackend) -> list[int]:
    rows = await backend.rows("SELECT version FROM somactl.somactl_schema ORDER BY version")
    return [version for (version,) in rows]


def test_the_newest_file_is_the_schema_this_somactl_writes() -> None:
    numbers = [migration.number for migration in schema.migrations()]
    assert numbers == list(range(1, schema.SCHEMA_VERSION + 1))


def test_a_file_that_does_not_say_whom_it_admits_is_a_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.joinpath("0001_silent.sql").write_text("-- least_reader: 1\nCREATE SCHEMA somactl;\n")
    monkeypatch.setattr(schema, "data_file", lambda *_: tmp_path)
    with pytest.raises(ValueError, match="0001_silent"):
        schema.migrations()


def test_every_statement_is_used_and_every_name_is_defined() -> None:
    source = "".join(path.read_text() for path in Path(schema.__file__).parent.glob("*.py"))
    counted = {f"count_{stage}" for stage in schema.STAGES}
    defined = set(schema.queries())
    assert {name for name in defined if f'"{name}"' in source} == defined - counted
    called = re.findall(r'session\.(?:rows?|each|learn)\(\s*"(\w+)"', source)
    assert len(called) > 25
    assert set(called) <= defined


async def test_every_statement_is_understood_and_needs_no_look_into_the_catalogue(
    backend: PostgresBackend, opener: Opener
) -> None:
    """asyncpg asks the server about each type it does not know: a slow statement on each new connection,
    which leaves a setting behind in a connection that PgBouncer lends to others."""
    await opener().init()
    async with backend.raw() as connection:
        for name, statement in schema.queries().items():
            prepared = await connection.prepare(statement)
            types = [*prepared.get_parameters(), *(column.type for column in prepared.get_attributes())]
            assert {t.name for t in types if t.kind == "array"} <= {"text[]"}, name
            assert {t.kind for t in types} <= {"scalar", "array"}, name


async def test_init_of_a_new_database_and_again(backend: PostgresBackend, opener: Opener) -> None:
    first = await opener().init()
    assert await versions(backend) == ALL
    assert await opener().init() == first
    assert await versions(backend) == ALL
    ((applied_at, now),) = await backend.rows(
        "SELECT max(applied_at), extract(epoch FROM now())::float8 FROM somactl.somactl_schema"
    )
    assert now - 600 < applied_at <= now


async def test_many_machines_migrate_a_database_at_once(
    backend: PostgresBackend, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them have seen that there is no schema before one of them makes it."""
    crowd = [opener(f"space-{number}") for number in range(8)]
    seen: list[PostgresStore] = []
    all_there = asyncio.Event()
    look = schema.inspect

    async def look_together(*arguments: Any) -> Any:
        found = await look(*arguments)
        if len(seen) < len(crowd):
            seen.append(found)
            if len(seen) == len(crowd):
                all_there.set()
            await all_there.wait()
        return found

    monkeypatch.setattr(schema, "inspect", look_together)
    heads = await asyncio.gather(*(store.init() for store in crowd))
    assert [found.schema for found in seen] == [None] * len(crowd)  # type: ignore[attr-defined]
    assert len({head.incarnation for head in heads}) == len(crowd)
    assert await versions(backend) == ALL


async def test_a_migration_that_fails_leaves_nothing(
    backend: PostgresBackend, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        next_release(patch, Migration(NEXT.number, "CREATE TABLE somactl.more (x int); SELECT 1/0;", 1, 1))
        with pytest.raises(Exception, match="division by zero"):
            await opener().init()
    assert await versions(backend) == ALL  # each file is a transaction of its own
    assert (await backend.rows("SELECT to_regclass('somactl.more')"))[0][0] is None
    assert (await opener().init()).version == 0


async def test_a_database_that_was_never_initialised(backend: PostgresBackend, opener: Opener) -> None:
    store = opener()
    assert await store.namespaces() == []
    for call in (
        store.head(),
        store.read("a"),
        listed(store.scan()),
        store.compact(),
        store.durability(),
        put(store, "a"),
    ):
        with pytest.raises(NamespaceNotFound) as caught:
            await call
        assert [step.command for step in caught.value.next] == ["init"]
    found = {finding.check: finding.status for finding in await store.diagnose()}
    assert found["migrations"] == "problem"
    assert await backend.rows("SELECT 1 FROM pg_namespace WHERE nspname = 'somactl'") == []
    await opener().init()
    assert (await put(store, "a")).version == 1  # no need to open it again


async def test_somebody_else_s_schema_is_left_alone(backend: PostgresBackend, opener: Opener) -> None:
    await backend.rows("CREATE SCHEMA somactl")
    await backend.rows("CREATE TABLE somactl.theirs (x int)")
    store = opener()
    for call in (store.init(), store.head(), store.namespaces(), put(store, "a")):
        with pytest.raises(SchemaMismatch, match="did not make"):
            await call
    assert [f.check for f in await store.diagnose() if f.status == "problem"] == ["migrations"]
    assert await backend.rows(
        "SELECT relname FROM pg_class WHERE relnamespace = 'somactl'::regnamespace"
    ) == [("theirs",)]


async def test_a_table_of_our_name_that_is_not_ours(backend: PostgresBackend, opener: Opener) -> None:
    await backend.rows("CREATE SCHEMA somactl")
    await backend.rows("CREATE TABLE somactl.somactl_schema (x int)")
    for call in (opener().init(), opener().head()):
        with pytest.raises(SchemaMismatch):
            await call


@pytest.mark.parametrize("lacking", ["TABLE somactl.commit_record", "FUNCTION somactl.write_commit"])
async def test_a_part_of_ours_that_is_missing(backend: PostgresBackend, opener: Opener, lacking: str) -> None:
    store = opener()
    await store.init()
    await backend.rows(f"DROP {lacking}")
    with pytest.raises(SchemaMismatch):
        await put(store, "a")
    assert (await store.head()).version == 0


@pytest.mark.parametrize(("least_reader", "least_writer"), [(1, 9), (9, 9)])
async def test_a_schema_newer_than_this_somactl_knows(
    backend: PostgresBackend, opener: Opener, least_reader: int, least_writer: int
) -> None:
    old = opener()
    await old.init()
    await put(old, "a")
    await backend.rows("INSERT INTO somactl.somactl_schema VALUES (9, $1, $2, 0)", least_reader, least_writer)
    store = opener()
    writes = (put(store, "a"), store.init(), store.commit_status("x", resolve=True))
    for call in writes:
        with pytest.raises(SchemaMismatch, match="schema 9, which takes a somactl of schema 9") as caught:
            await call
        assert (caught.value.retryable, caught.value.facts["schema"]) == (False, 9)
    if least_reader == 1:
        assert (await store.read("a")).version == 1
        assert len(await store.namespaces()) == 1
    else:
        for call in (store.read("a"), store.namespaces(), listed(store.scan())):
            with pytest.raises(SchemaMismatch, match="to read"):
                await call
    assert (await versions(backend), await backend.stored("default")) == ([*ALL, 9], {("a", 1)})
    assert [f.check for f in await store.diagnose() if f.status == "problem" and f.check == "migrations"]


async def test_two_releases_side_by_side(
    backend: PostgresBackend, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new release migrates while the old one has connections open, with plans and types of before."""
    old = opener()
    await old.init()
    await put(old, "a")
    await put(old, "a", expected=1)
    with monkeypatch.context() as patch:
        next_release(patch)
        new = opener()
        assert (await put(new, "b")).version == 3  # before its own migration, too
        await new.init()
        assert await versions(backend) == [*ALL, NEXT.number]
        assert (await put(new, "b", expected=3)).version == 4
    late = opener()  # of the old release, but it finds the new schema
    for version, store in ((5, old), (6, late)):
        assert (await put(store, "a", seed=version)).version == version
        assert len((await store.read_many(["a", "b"])).entries) == 2
        assert [s.key for s in await listed(store.scan())] == ["a", "b"]
        assert len(await store.log()) == version
        assert len(await store.namespaces()) == 1
        assert await store.init() == await store.head()
    await delete(late, "a")
    assert (await old.init(new_incarnation=True)).version == 7
    assert await versions(backend) == [*ALL, NEXT.number]
    assert next(f for f in await late.diagnose() if f.check == "migrations").status == "ok"


async def test_an_older_schema_is_migrated_by_init_alone(
    backend: PostgresBackend, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opener().init()
    next_release(monkeypatch)
    store = opener()
    await put(store, "a")
    assert await versions(backend) == ALL
    findings = {f.check: f for f in await store.diagnose()}
    assert (findings["migrations"].status, [step.command for step in findings["migrations"].next]) == (
        "problem",
        ["init"],
    )
    await store.init()
    assert await versions(backend) == [*ALL, NEXT.number]
    assert (await store.head()).version == 1


async def test_a_database_of_another_encoding(postgres_server: Databases, opener: Opener) -> None:
    name = "somactl_test_latin"
    postgres_server.run(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    url = postgres_server.url(name)
    try:
        store = opener(url=url)
        with pytest.raises(ConfigurationError, match="LATIN1"):
            await store.init()
        assert {"encoding"} <= {f.check for f in await store.diagnose() if f.status == "problem"}
        await store.close()
    finally:
        postgres_server.drop_database(url)


async def test_a_server_older_than_somactl_needs(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("somactl.store.postgres.schema.OLDEST_SERVER", 99)
    with pytest.raises(ConfigurationError, match="needs 99 or newer"):
        await opener().init()


@pytest.mark.source
async def test_whoever_may_not_create_can_still_use(backend: PostgresBackend, opener: Opener) -> None:
    role = await make_role(backend)
    with pytest.raises(AccessDenied, match="permission denied"):
        await opener(url=role).init()
    await opener().init()
    for statement in grants():
        await backend.rows(statement.replace("somactl_role", urlname(role)))
    worker = opener("mine", url=role)
    await worker.init()
    await put(worker, "a")
    await put(worker, "a", expected=1)
    await worker.compact()
    permissions = next(f for f in await worker.diagnose() if f.check == "permissions")
    assert permissions.status == "ok"
    await worker.close()
    await drop_role(backend, role)


async def test_whoever_may_only_read(backend: PostgresBackend, opener: Opener) -> None:
    owner = opener()
    await owner.init()
    await put(owner, "a")
    role = await make_role(backend)
    powerless = opener(url=role)
    with pytest.raises(AccessDenied):
        await powerless.head()
    (finding,) = await powerless.diagnose()
    assert (finding.check, finding.status) == ("permissions", "problem")
    for statement in (
        "GRANT USAGE ON SCHEMA somactl TO {}",
        "GRANT SELECT ON ALL TABLES IN SCHEMA somactl TO {}",
    ):
        await backend.rows(statement.format(urlname(role)))
    reader = opener(url=role)
    assert (await reader.read("a")).version == 1
    assert (await reader.init()).version == 1  # there is nothing to do
    for call in (
        put(reader, "a"),
        reader.commit_status("x", resolve=True),
        reader.init(new_incarnation=True),
    ):
        with pytest.raises(AccessDenied) as caught:
            await call
        assert caught.value.exit_code == 10
    permissions = next(f for f in await reader.diagnose() if f.check == "permissions")
    assert (permissions.status, permissions.detail) == ("problem", "the role may not write nor compact")
    assert (await owner.head()).version == 1
    await powerless.close()
    await reader.close()
    await drop_role(backend, role)


def grants() -> list[str]:
    """What the documentation says a role needs."""
    page = Path(__file__).parents[2] / "docs" / "STORE_POSTGRES.md"
    found: list[str] = re.findall(r"^GRANT .*?;$", page.read_text(), re.MULTILINE)
    assert found
    return found


async def make_role(backend: PostgresBackend) -> str:
    """The URL of a new role without any rights."""
    name = f"{backend.database}_role"
    await backend.rows(f"CREATE ROLE {name} LOGIN PASSWORD 'pw'")
    place = backend.url.rpartition("@")[2]
    return f"postgresql://{name}:pw@{place}"


async def drop_role(backend: PostgresBackend, url: str) -> None:
    for statement in ("DROP OWNED BY {}", "DROP ROLE {}"):
        await backend.rows(statement.format(urlname(url)))


def urlname(url: str) -> str:
    return url.removeprefix("postgresql://").partition(":")[0]


def test_schema_files_are_shipped() -> None:
    assert data_file("sql", "postgres", "0001_init.sql").read_text().startswith("-- Schema 1.")


def test_the_store_loads_no_numbers_and_the_package_no_driver() -> None:
    code = (
        "import sys, somactl, somactl.runtime, somactl.store.contract; assert 'asyncpg' not in sys.modules; "
        "import somactl.store.postgres; sys.exit('numpy' in sys.modules or 'scipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Ways to a server that lead nowhere, and what a server answers instead of doing what it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from servers.certificates import make_certificates
from servers.pgbouncer import PgBouncer
from servers.postgres import Databases, PostgresServer
from somactl.errors import (
    AccessDenied,
    NotPrimary,
    OutcomeUnknown,
    SchemaMismatch,
    SomactlError,
    StoreBusy,
    StoreDamaged,
    StoreFull,
    StoreLoading,
    StoreTimeout,
    StoreUnavailable,
    TlsFailure,
)
from somactl.store.postgres import PostgresStore, failures
from somactl.testing.values import put
from store.postgres_backend import (
    Opener,
    PostgresBackend,
    backend as backend,
    opener as opener,
    store as store,
)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"password": "wrong-secret"}, AccessDenied),
        ({"user": "nobody_knows"}, AccessDenied),
        ({"path": "/no_such_database"}, AccessDenied),
        ({"port": 1}, StoreUnavailable),
        ({"query": "?host=/no/such/folder"}, StoreUnavailable),
        ({"query": "?sslmode=require"}, TlsFailure),
        ({"query": "?sslmode=verify-full&sslrootcert=/no/such/file"}, TlsFailure),
        ({"query": "?sslrootcert=/etc/hostname&sslmode=verify-ca"}, TlsFailure),
        ({"query": "?target_session_attrs=standby"}, NotPrimary),
    ],
    ids=str,
)
async def test_a_way_in_that_does_not_exist(
    backend: PostgresBackend, opener: Opener, change: dict[str, Any], error: type[SomactlError]
) -> None:
    parts = urlsplit(backend.url)
    right = {"user": parts.username, "password": parts.password, "port": parts.port, "path": parts.path}
    got: dict[str, Any] = {**right, "query": "", **change}
    place = "" if "host=" in got["query"] else f"127.0.0.1:{got['port']}"
    store = opener(url=f"postgresql://{got['user']}:{got['password']}@{place}{got['path']}{got['query']}")
    for call in (store.init(), store.head(), put(store, "a"), store.namespaces(), store.durability()):
        with pytest.raises(error) as caught:
            await call
        shown = f"{caught.value.message} {caught.value.hint}"
        assert str(got["password"]) not in shown
        assert str(got["user"]) in shown
        assert caught.value.hint
        assert caught.value.exit_code in (10, 13)
    (finding,) = await store.diagnose()
    assert (finding.check, finding.status) == ("reachable", "problem")
    assert str(got["password"]) not in f"{finding}"


async def test_an_unknown_database_behind_pgbouncer(pgbouncer: PgBouncer, opener: Opener) -> None:
    with pytest.raises(AccessDenied, match="no_such_database"):
        await opener(url=pgbouncer.url("no_such_database")).head()


async def test_a_wrong_password_for_pgbouncer(pgbouncer: PgBouncer, opener: Opener) -> None:
    url = pgbouncer.url().replace(pgbouncer.postgres.password, "wrong-secret")
    with pytest.raises(AccessDenied) as caught:
        await opener(url=url).head()
    assert "wrong-secret" not in f"{caught.value.message} {caught.value.hint}"


async def test_a_role_with_too_many_connections(backend: PostgresBackend, opener: Opener) -> None:
    role = f"{backend.database}_busy"
    await backend.rows(f"CREATE ROLE {role} LOGIN PASSWORD 'pw' CONNECTION LIMIT 0")
    with pytest.raises(StoreUnavailable, match="too many connections") as caught:
        await opener(url=f"postgresql://{role}:pw@{backend.url.rpartition('@')[2]}").head()
    assert caught.value.retryable
    await backend.rows(f"DROP ROLE {role}")


async def test_encrypted_connections(tmp_path: Path) -> None:
    tmp_path.joinpath("stranger").mkdir()
    stranger = make_certificates(tmp_path / "stranger").ca
    with PostgresServer(tmp_path / "server", tls=True, settings={"fsync": "on"}) as server:
        url = server.create_database()
        for query, error in {
            "": None,  # on this machine: encrypted where the server can, and no name is asked
            "?sslmode=require": None,
            f"?sslmode=verify-full&sslrootcert={server.ca_file}": None,
            f"?sslrootcert={server.ca_file}": None,
            f"?sslmode=verify-full&sslrootcert={stranger}": TlsFailure,
            "?sslmode=verify-full": TlsFailure,  # there is no ~/.postgresql/root.crt
            "?sslmode=disable": AccessDenied,  # the server takes nothing else than TLS
        }.items():
            store = PostgresStore(url + query)
            if error is None:
                await store.init()
                assert (await store.diagnose())[0].status == "ok"
            else:
                with pytest.raises(error) as caught:
                    await store.init()
                assert caught.value.exit_code == 10
            await store.close()
        await check_durability(server, url)


async def check_durability(server: Databases, url: str) -> None:
    """In the same test: this is the one server here that calls fsync."""
    store = PostgresStore(url)
    first = await put(store, "a", commit_id="first")
    assert [s.durability for s in first.stores] == ["fsync"] == [await store.durability()]
    await store.close()
    server.run(f"ALTER DATABASE {urlsplit(url).path[1:]} SET synchronous_commit = off")
    store = PostgresStore(url)
    assert [s.durability for s in (await put(store, "a")).stores] == ["memory"] == [await store.durability()]
    assert (await put(store, "a", commit_id="first")).stores == first.stores
    problems = {f.check for f in await store.diagnose() if f.status == "problem"}
    assert problems == {"synchronous_commit", "full_page_writes"}
    await store.close()


# What the server answers.

STATES: dict[str, tuple[type[SomactlError], bool]] = {
    "08006": (StoreUnavailable, True),
    "22021": (SchemaMismatch, False),
    "22P05": (SchemaMismatch, False),
    "23505": (StoreDamaged, False),
    "25006": (NotPrimary, True),
    "25P03": (StoreUnavailable, True),
    "28000": (AccessDenied, False),
    "3D000": (AccessDenied, False),
    "3F000": (SchemaMismatch, False),
    "40001": (StoreBusy, True),
    "40P01": (StoreBusy, True),
    "42501": (AccessDenied, False),
    "42703": (SchemaMismatch, False),
    "53000": (StoreUnavailable, True),
    "53100": (StoreFull, False),
    "53200": (StoreFull, False),
    "53300": (StoreUnavailable, True),
    "55P03": (StoreBusy, True),
    "57014": (StoreTimeout, True),
    "57P03": (StoreLoading, True),
    "58030": (StoreUnavailable, True),
    "58P01": (StoreDamaged, False),
    "P0001": (SchemaMismatch, False),
    "XX000": (StoreDamaged, False),
    "XX001": (StoreDamaged, False),
    "XX002": (StoreDamaged, False),
}


async def test_every_state_that_means_something(
    backend: PostgresBackend, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server raises it in the middle of a commit, which is undone."""
    monkeypatch.setattr("somactl.store.postgres.store._PAUSE_SECONDS", 0.0)
    covered = {length for state in STATES for length in (state, state[:3], state[:2])}
    assert {state for state in failures.MEANINGS if state not in covered} <= {"26000", "42P05", "57P"}
    store = opener()
    await store.init()
    for state, (error, retryable) in STATES.items():
        await backend.refuse_records(state)
        with pytest.raises(error) as caught:
            await put(store, "a", expected={"guard": 0})  # a transaction of several statements
        assert (caught.value.retryable, caught.value.facts["sqlstate"]) == (retryable, state)
        assert "provoked" in caught.value.message
        assert caught.value.hint
        # What begins with 08 says that the connection is broken; in the only statement of a commit that
        # leaves open whether it is done.
        with pytest.raises(OutcomeUnknown if state.startswith("08") else error):
            await put(store, "a")
        await backend.accept_records()
    assert ((await store.head()).version, await backend.stored("default")) == (0, set())
    assert (await put(store, "a")).version == 1


async def test_what_only_a_bug_could_cause_is_raised_as_it_is(
    backend: PostgresBackend, store: PostgresStore
) -> None:
    await backend.refuse_records("22012")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await put(store, "a")
    await backend.accept_records()
    assert (await put(store, "a")).version == 1

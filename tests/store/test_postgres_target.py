"""What a URL says, before it is connected to."""

from __future__ import annotations

from typing import Any

import pytest

from somactl.errors import ConfigurationError
from somactl.store.postgres import PostgresStore, connections
from somactl.store.postgres.reading import end_of, like


@pytest.mark.parametrize(
    ("place", "sslmode"),
    [
        ("localhost", "prefer"),
        ("127.0.0.1:5432", "prefer"),
        ("[::1]:5432", "prefer"),
        ("%2Frun%2Fpostgresql", "prefer"),
        ("me:pw@127.0.0.1", "prefer"),
        ("db.example.org", "verify-full"),
        ("me@db.example.org:5433", "verify-full"),
        ("10.0.0.7", "verify-full"),
        ("[2001:db8::1]:5432", "verify-full"),
        ("127.0.0.1,db.example.org", "verify-full"),
        ("localhost.example.org", "verify-full"),
    ],
)
def test_only_this_machine_is_trusted_without_a_certificate(place: str, sslmode: str) -> None:
    found = connections.parse(f"postgresql://{place}/db")
    assert found.sslmode == sslmode
    assert f"sslmode={sslmode}" in found.arguments["dsn"]
    explicit = connections.parse(f"postgresql://{place}/db?sslmode=require")
    assert explicit.sslmode == "require"
    assert explicit.arguments["dsn"] == "postgresql://?sslmode=require"


@pytest.mark.parametrize(
    ("query", "hosts", "sslmode"),
    [
        ("host=/run/postgresql", ("/run/postgresql",), "prefer"),
        ("host=%2Frun%2Fpostgresql&port=5433", ("/run/postgresql",), "prefer"),
        ("host=db.example.org", ("db.example.org",), "verify-full"),
        ("host=/tmp,db.example.org", ("/tmp", "db.example.org"), "verify-full"),
    ],
)
def test_hosts_among_the_parameters(query: str, hosts: tuple[str, ...], sslmode: str) -> None:
    found = connections.parse(f"postgresql:///db?{query}")
    assert (found.hosts, found.sslmode) == (hosts, sslmode)
    assert found.arguments["host"] == list(hosts)


def test_the_environment_leads_to_no_other_host_or_port() -> None:
    arguments = connections.parse("postgresql://h,[::1]:1/db").arguments
    assert (arguments["host"], arguments["port"]) == (["h", "::1"], [5432, 1])


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:secret@host/db",
        "postgresql://me:secret@host/db?work_mem=1GB",
        "postgresql://me:secret@host/db?pool_size=0",
        "postgresql://me:secret@host/db?pool_size=many",
        "postgresql://me:secret@host/db?pool_size=\u0663",
        "postgresql://me:secret@host/db?nonsense",
        "postgresql://me:secret@[::1/db",
        "postgresql://me:se@secret@host/db",
        "postgresql://me:x@secret:y@host/db",
        "postgresql://me:x@host:secret/db",
        "postgresql://me:secret@host/db?connect_timeout=soon",
        "postgresql:///db?password=secret",
    ],
)
def test_a_url_that_asks_for_what_is_not_known(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PostgresStore(url)
    assert "secret" not in f"{caught.value.message} {caught.value.hint}"
    assert caught.value.hint


def test_parameters_of_ours_and_of_asyncpg() -> None:
    found = connections.parse(
        "postgres://me:s%40cret@h/db?pool_size=3&application_name=a%20b&sslrootcert=/ca.pem"
    )
    assert (found.pool_size, found.files) == (3, {"sslrootcert": "/ca.pem"})
    assert found.arguments == {
        "dsn": "postgresql://?sslrootcert=%2Fca.pem&sslmode=verify-full",
        "host": ["h"],
        "port": [5432],
        "user": "me",
        "password": "s@cret",
        "database": "db",
        "server_settings": {"application_name": "a b"},
    }
    assert found.public == "postgres://me@h/db"
    assert "s@cret" not in repr(found)
    assert connections.parse("postgresql://h/db?connect_timeout=7").connect_timeout == 7
    plain = connections.parse("postgresql://h/db")
    assert (plain.pool_size, plain.connect_timeout) == (connections.POOL_SIZE, None)


def test_tls_from_the_first_byte_needs_tls() -> None:
    found = connections.parse("postgresql://h/db?sslnegotiation=direct")
    assert (found.sslmode, found.arguments["direct_tls"]) == ("verify-full", True)
    with pytest.raises(ConfigurationError, match="first byte"):
        connections.parse("postgresql://127.0.0.1/db?sslnegotiation=direct")


def test_the_system_s_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    paths: Any = type("Paths", (), {"cafile": "/etc/all.pem", "openssl_cafile": "/etc/all.pem"})
    monkeypatch.setattr("ssl.get_default_verify_paths", lambda: paths)
    assert connections.parse("postgresql://h/db?sslrootcert=system").files == {"sslrootcert": "/etc/all.pem"}
    paths.cafile = None
    with pytest.raises(ConfigurationError, match="system's certificate authorities"):
        connections.parse("postgresql://h/db?sslrootcert=system")


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("*", "%"),
        ("a?c", "a_c"),
        ("100%", "100\\%"),
        ("a_b", "a\\_b"),
        ("\\*", "*"),
        ("\\\\", "\\\\"),
        ("end\\", "end\\\\"),
        ("\\%", "\\%"),
        ("[a]", "[a]"),
    ],
)
def test_a_pattern_for_sql(text: str, pattern: str) -> None:
    assert like(text) == pattern


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        ("", None),
        ("a", "b"),
        ("az", "a{"),
        ("a\U0010ffff", "b"),
        ("\U0010ffff", None),
        ("\ud7ff", "\ue000"),
        ("\uffff", "\U00010000"),
    ],
)
def test_where_a_prefix_ends(prefix: str, end: str | None) -> None:
    assert end_of(prefix) == end
    if end is not None:
        assert (prefix + "\U0010ffff" * 3).encode() < end.encode()

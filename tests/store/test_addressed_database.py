"""Which database every form of a URL reaches, as store, as cache and as source: the server is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from servers.external import ExternalPostgres
from servers.postgres import PostgresServer
from servers.redis import RedisServer
from somactl.address import Use, parse
from somactl.config import Settings
from somactl.errors import ConfigurationError
from somactl.legacy.source.contract import Change
from somactl.runtime import open_source, open_store
from somactl.testing.values import put

DATABASES = range(4)
REDIS_FORMS = {
    "redis://H": 0,
    "redis://H/": 0,
    "redis://H/0": 0,
    "redis://H/2": 2,
    "redis://H/02": 2,
    "redis://H/%32": 2,
    "redis://H?db=2": 2,
    "redis://H/?db=2": 2,
    "redis://H/2?db=2": 2,
    "REDIS://H/1": 1,
    "redis://@H/1": 1,
    "redis://:@H/1": 1,
    "unix://S": 0,
    "unix://S?db=3": 3,
    "rediss://T": 0,
    "rediss://T/2": 2,
    "rediss://T?db=3": 3,
    "rediss://T/1?ssl_cert_reqs=none&db=1": 1,
}
REDIS_REFUSED = [
    "redis://H/2?db=3", "redis://H/0?db=2", "redis://H?db=2&db=2", "redis://H?db=2&db=3", "redis://H?db=",
    "redis://H?db", "redis://H?", "redis://H/2/x", "redis://H/2/", "redis://H//2", "redis://H/abc",
    "redis://H/-1", "redis://H/+2", "redis://H/ 2", "redis://H/2 ", " redis://H/2", "redis://H/2\n",
    "redis://H/\u0662", "redis://H/1e0", "redis://H/2#3", "redis://H#2", "redis://H/2;3", "redis://H/2,3",
    "redis://H/%2", "redis://H/%zz", "redis://H/9999999", "redis://H?DB=2", "redis://H?database=2",
    "redis://H?dbb=2", "redis:/H/2", "redis:H/2", "redis:///2", "redis://", "redis://?db=2",
    "redis://H,H/2", "redis://H:/2", "redis://H:6379:6379/2", "redis+cluster://H/2",
    "redis+cluster://H?db=2", "unix://S/?db=x", "unix://S?db=1&db=2", "unix://h/s?db=2", "unix:S",
    "rediss://T/2?ssl=true", "redis://H/2?ssl_cert_reqs=none", "redis://127.0.0.1:0/2",
    "redis://127.0.0.1:65536/2", "redis://127.0.0.1:-1/2", "redis://127.0.0.1:+6379/2",
    "redis://127.0.0.1:abc/2", "redis://127.0.0.1:\u0661/2", "redis://[::1/2", "redis://::1/2",
    "redis://[zz]/2", "redis://a b/2",
]  # fmt: skip
USES: tuple[Use, ...] = ("store", "cache", "source")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RedisServer]]:
    folder = tmp_path_factory.mktemp("addressed")
    with RedisServer(folder / "plain") as plain, RedisServer(folder / "tls", tls=True) as tls:
        yield {"H": plain, "T": tls}


def place(form: str, servers: dict[str, RedisServer]) -> tuple[str, RedisServer]:
    """The form with a real server in it, and that server."""
    scheme, _, rest = form.partition("://")
    server = servers["T" if scheme == "rediss" else "H"]
    host = str(server.socket) if scheme == "unix" else f"127.0.0.1:{server.port}"
    return f"{scheme}://{rest.replace(rest.lstrip('@:')[0], host, 1)}", server


def used(server: RedisServer) -> set[int]:
    """The databases that hold a key."""
    with server.client() as raw:
        return {int(name.removeprefix("db")) for name in raw.info("keyspace")}


async def touch(url: str, use: Use, folder: Path) -> None:
    """Write through the address where it is a store or a cache."""
    settings = Settings(store=url) if use == "store" else Settings(f"sqlite:///{folder}/s.db", url)
    async with open_store(settings) as store:
        await store.init()
        await put(store, "a")
        await store.read("a")


@pytest.mark.parametrize("form", REDIS_FORMS)
@pytest.mark.parametrize("use", ["store", "cache"])
async def test_a_redis_is_written_where_its_url_says(
    form: str, use: Use, servers: dict[str, RedisServer], tmp_path: Path
) -> None:
    url, server = place(form, servers)
    with server.client() as raw:
        raw.flushall()
    await touch(url, use, tmp_path)
    assert used(server) == {REDIS_FORMS[form]}


@pytest.mark.parametrize("form", REDIS_FORMS)
async def test_a_redis_is_read_and_emptied_where_its_url_says(
    form: str, servers: dict[str, RedisServer]
) -> None:
    url, server = place(form, servers)
    with server.client() as raw:
        raw.flushall()
        for number in DATABASES:
            raw.select(number)
            raw.set("k", f'"{number}"')
    expected = REDIS_FORMS[form]
    async with open_source([url], read_only=False) as source:
        (value,) = await source.fetch(["k"])
        assert value.data == f'"{expected}"'.encode()
        assert await source.swap([Change("k", value.data, None)]) == [True]
    assert used(server) == set(DATABASES) - {expected}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("form", REDIS_REFUSED)
def test_a_redis_url_that_could_be_read_in_two_ways_is_refused(form: str, use: Use) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(form.replace("S", "/run/s").replace("T", "h"), use)
    assert caught.value.hint


POSTGRES_FORMS = [
    "postgresql://U:W@H:P/D", "postgres://U:W@H:P/D", "POSTGRESQL://U:W@H:P/D",
    "postgresql://U:W@H:P?dbname=D", "postgresql://U:W@H:P/?dbname=D", "postgresql://U:W@H:P/D?dbname=D",
    "postgresql://U:W@H:P/D?database=D", "postgresql://H:P/D?user=U&password=W",
    "postgresql://U@H:P/D?password=W", "postgresql://U:W@H/D?port=P",
    "postgresql://U:W@H:P/D?port=P&host=H&user=U&password=W&dbname=D",
    "postgresql:///D?host=H&port=P&user=U&password=W", "postgresql://U:W@/D?host=H:P",
    "postgresql://U:W@H:P,H:P/D", "postgresql://U:W@H,H/D?port=P", "postgresql://U:W@H,H/D?port=P,P",
    "postgresql://U:W@H:1,H:P/D", "postgresql://?host=H&port=P&user=U&password=W&dbname=D",
    "postgresql://U:W@H:P/D?sslmode=disable&connect_timeout=5&pool_size=2&application_name=a%20b",
]  # fmt: skip
SOCKET_FORMS = [
    "postgresql://U@/D?host=R&port=P",
    "postgresql:///D?user=U&host=R&port=P",
    "postgresql://U@Q:P/D",
]
POSTGRES_REFUSED = [
    "postgresql://h/d?dbname=e", "postgresql://h/d?database=e", "postgresql://h?dbname=d&database=e",
    "postgresql://h/d?host=g", "postgresql://h,g/d?host=g,h", "postgresql://h:1/d?port=2",
    "postgresql://h/d?host=h:1&port=2", "postgresql://u@h/d?user=v", "postgresql://u:p@h/d?password=q",
    "postgresql://h/d?user=u&user=u", "postgresql://h/d?host=h&host=h", "postgresql:///d", "postgresql://",
    "postgresql:///", "postgresql:///d?port=1", "postgresql://u:p@/d", "postgresql://:1/d?host=h",
    "postgresql:/h/d", "postgresql:h/d", "postgresql:/u:p@h/d", "postgresql://h:/d", "postgresql://h:0/d",
    "postgresql://h:65536/d", "postgresql://h:99999999999/d", "postgresql://h:x/d", "postgresql://h:-1/d",
    "postgresql://h:+1/d", "postgresql://h:\u0661/d", "postgresql://h/d?port=0",
    "postgresql://h/d?port=65536", "postgresql://h/d?port=x", "postgresql://h,g/d?port=1,2,3",
    "postgresql://h,,g/d", "postgresql://h,/d", "postgresql://h/d/e", "postgresql://h//d",
    "postgresql://h/d#e", "postgresql://h/d?", "postgresql://h/d?host", "postgresql://h/d?host=",
    "postgresql://h/d?dbname=", "postgresql://h/d?work_mem=1", "postgresql://h/d?sslmod=require",
    "postgresql://h/d?sslmode=maybe", "postgresql://h/d?target_session_attrs=sideways",
    "postgresql://h/d?service=s", "postgresql://h/d?hostaddr=1.1.1.1", "postgresql://h/%",
    "postgresql://h/d%00", "postgresql://h/%ff", "postgresql://h h/d", "postgresql://h/d ",
    "postgresql://h/d\n", "postgresql://[::1/d", "postgresql://[::1]x/d", "postgresql://::1/d",
    "postgresql://[h]/d", "postgresql://u:a@b@h/d", "postgresql://u:a/b@h/d", "postgresql://u:a?b@h/d",
    "postgresql://u:a#b@h/d", "postgresql://h/d?target_session_attrs=any&target_session_attrs=any",
]  # fmt: skip


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer | ExternalPostgres) -> Iterator[str]:
    """The name of a database with a table of its own name."""
    url = postgres_server.create_database()
    name = url.rpartition("/")[2]
    postgres_server.run("CREATE TABLE kv_store (key text PRIMARY KEY, value jsonb NOT NULL)", name)
    postgres_server.run("INSERT INTO kv_store VALUES ('k', to_jsonb(current_database()::text))", name)
    yield name
    postgres_server.drop_database(url)


@pytest.mark.parametrize("form", [*POSTGRES_FORMS, *SOCKET_FORMS])
async def test_a_postgres_is_reached_where_its_url_says(
    form: str,
    postgres_server: PostgresServer | ExternalPostgres,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if form in SOCKET_FORMS and isinstance(postgres_server, ExternalPostgres):
        return  # its socket is not ours to know
    for variable in ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD"):
        monkeypatch.setenv(variable, "65536")
    server = postgres_server
    letters = {
        "H": server.host,
        "P": str(server.port),
        "U": quote(server.user, safe=""),
        "W": quote(server.password, safe=""),
        "D": database,
    }
    if isinstance(server, PostgresServer):
        letters |= {"R": str(server.runtime), "Q": quote(str(server.runtime), safe="")}
    head, mark, tail = form.partition("://")
    url = head + mark + "".join(letters.get(char, char) for char in tail)
    monkeypatch.setenv("OLD", url)
    async with open_source(["env:OLD"]) as source:
        (value,) = await source.fetch(["k"])
        assert value.data == f'"{database}"'.encode()
    async with open_store(Settings(store=url)) as store:
        await store.init()
        await store.head()
    assert server.run("SELECT count(*) FROM pg_namespace WHERE nspname = 'somactl'", database) == [(1,)]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("url", POSTGRES_REFUSED)
def test_a_postgres_url_that_could_be_read_in_two_ways_is_refused(url: str, use: Use) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(url, use)
    assert caught.value.hint


SQLITE_REFUSED = [
    "sqlite://", "sqlite:///", "sqlite:////", "sqlite://f.db", "sqlite:f.db", "sqlite:/f.db",
    "sqlite:///f.db?mode=ro", "sqlite:///f.db?", "sqlite:///f.db#x", "sqlite:///:memory:",
    "sqlite://u:p@/f.db", "sqlite:///f%.db", "sqlite:///f%00.db", "sqlite:///f.db\n",
    "sqlite://localhost/f.db", "sqlite3:///f.db",
]  # fmt: skip


@pytest.mark.parametrize("url", SQLITE_REFUSED)
def test_a_sqlite_url_that_names_more_than_a_file_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(url)
    assert caught.value.hint


def test_a_sqlite_url_names_a_file(tmp_path: Path) -> None:
    for form, name in {
        "f.db": "f.db",
        "a b@c.db": "a b@c.db",
        "x%3Fy%23.db": "x?y#.db",
        "%C3%A4": "ä",
    }.items():

        async def make(form: str = form) -> None:
            async with open_store(Settings(store=f"sqlite:///{tmp_path}/{form}")) as store:
                await store.init()

        asyncio.run(make())
        assert (tmp_path / name).is_file()


@pytest.mark.parametrize("use", ["cache", "source"])
def test_a_file_is_no_cache_and_no_source(use: Use) -> None:
    with pytest.raises(ConfigurationError, match="sqlite"):
        parse("sqlite:///f.db", use)


def test_a_server_may_be_named_in_one_use_and_not_in_another() -> None:
    assert parse("redis://h?wait_replicas=1", "store").options == {"wait_replicas": "1"}
    assert parse("postgresql://h/d?table=t", "source").options == {"table": "t"}
    assert parse("redis+cluster://h,g?db=0", "cache").is_cluster
    for url, use in [
        ("redis://h?wait_replicas=1", "cache"),
        ("redis://h?wait_replicas=1", "source"),
        ("postgresql://h/d?table=t", "store"),
        ("postgresql://h/d", "cache"),
        ("redis+cluster://h,g", "source"),
    ]:
        with pytest.raises(ConfigurationError):
            parse(url, use)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("redis://h?dbb=2", "?db="),
        ("redis://h?database=2", "?db=N"),
        ("redis://h?password=x", "redis://USER:PASSWORD@HOST"),
        ("redis://h?ssl=true", "rediss://"),
        ("postgresql://h/d?db=x", "?dbname="),
        ("postgresql://h/d?sslmod=require", "?sslmode="),
        ("postgresql://h/d?connectTimeout=1", "?connect_timeout="),
        ("postgresql://h/d?pool-size=1", "?pool_size="),
        ("postgresql://h/d?work_mem=1", "ALTER ROLE"),
        ("postgresql://h/d?table=t", "SOURCE"),
    ],
)
def test_an_unknown_parameter_is_named_with_a_hint_that_fits(url: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(url)
    assert repr(url.partition("?")[2].partition("=")[0]) in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("redis://h", "redis://H:6379/0"),
        ("redis://h?db=2", "redis://h:6379/2"),
        ("unix:///s", "unix:///s?db=0"),
        ("postgres://h/d", "postgresql://h:5432?dbname=d"),
        ("postgresql:///d?host=/r", "postgresql://%2Fr:5432/d"),
    ],
)
def test_two_spellings_of_one_database_have_one_identity(one: str, other: str) -> None:
    assert parse(one).identity == parse(other).identity

"""Redis URLs, and connections by each of them: TLS, sockets, users and their rights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from servers.certificates import make_certificates
from servers.redis import RedisServer
from somactl.errors import AccessDenied, ConfigurationError, SomactlError, StoreUnavailable, TlsFailure
from somactl.store.contract import Retention
from somactl.store.redis import RedisStore, connection
from somactl.testing.values import delete, envelope, listed, put, write
from store.redis_backend import RedisBackend

RIGHTS = (
    "~somactl:* resetchannels -@all +@read +@write +@scripting +@connection -@dangerous "
    "+time +info +config|get +cluster|slots"
)


@pytest_asyncio.fixture
async def opener() -> AsyncIterator[Callable[..., RedisStore]]:
    stores: list[RedisStore] = []

    def open_store(*arguments: Any, **options: Any) -> RedisStore:
        stores.append(RedisStore(*arguments, **options))
        return stores[-1]

    yield open_store
    for store in stores:
        await store.close()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    users = [
        "default off",
        f"user on >pa/ss@?#word {RIGHTS}",
        f"mute on >password {RIGHTS} -@scripting",
        f"discreet on >password {RIGHTS} -config",
        f"secretive on >password {RIGHTS} -config -info",
        f"other on >password {RIGHTS} resetkeys ~other:*",
    ]
    with RedisServer(tmp_path_factory.mktemp("secured"), config={"user": users}) as server:
        yield server


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("encrypted"), tls=True) as server:
        yield server


GOOD_URLS = {
    "redis://example.org": ((("example.org", 6379),), "", 0, None, None),
    "redis://example.org:7000/3": ((("example.org", 7000),), "", 3, None, None),
    "redis://[::1]:7000": ((("::1", 7000),), "", 0, None, None),
    "redis://[::1]": ((("::1", 6379),), "", 0, None, None),
    "redis://me:p%40ss%2F@h/1": ((("h", 6379),), "", 1, "me", "p@ss/"),
    "redis://:secret@h": ((("h", 6379),), "", 0, None, "secret"),
    "unix:///run/redis.sock?db=2": ((), "/run/redis.sock", 2, None, None),
    "unix://me:secret@/run/a%20b.sock": ((), "/run/a b.sock", 0, "me", "secret"),
    "redis+cluster://a:1,b,[::1]:3": ((("a", 1), ("b", 6379), ("::1", 3)), "", 0, None, None),
}

BAD_URLS = [
    "redis://", "redis:///1", "redis:h", "http://h", "redis://h:0", "redis://h:70000", "redis://h:x",
    "redis://h/x", "redis://h/-1", "redis://a,b", "redis://h?nonsense=1", "redis://h#fragment",
    "redis://h?ssl_cert_reqs=none", "rediss://h?ssl_cert_reqs=maybe", "rediss://h?ssl_ca_certs=/no/such/file",
    "rediss://h?ssl_check_hostname=1", "redis+cluster://h/1", "unix://host/path", "unix://", "redis://[::1",
    "redis://h?wait_replicas=many",
]  # fmt: skip


@pytest.mark.parametrize("url", GOOD_URLS)
def test_a_url_is_read(url: str) -> None:
    server = connection.parse(url)
    assert (server.nodes, server.path, server.db, server.username, server.password) == GOOD_URLS[url]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_that_is_not_understood_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError):
        RedisStore(url)


@pytest.mark.parametrize("secret", ["finch?rook", "finch#rook", "finch/rook", "finch@rook", "rook"])
@pytest.mark.parametrize("rest", ["h:1/x", "h?nonsense=1", "h:70000", ""])
def test_no_error_shows_a_password_even_where_it_is_badly_quoted(secret: str, rest: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        connection.parse(f"redis://user:{secret}@{rest}")
    shown = f"{caught.value.message} {caught.value.hint} {caught.value.facts}"
    assert "finch" not in shown
    assert "rook" not in shown


def test_certificates_are_verified_unless_the_url_or_loopback_says_otherwise(tmp_path: Path) -> None:
    ca = make_certificates(tmp_path).ca
    for url, verified in {
        "rediss://example.org": ("required", True),
        "rediss+cluster://127.0.0.1,example.org": ("required", True),
        "rediss://127.0.0.1": ("none", False),
        "rediss://localhost?ssl_cert_reqs=required": ("required", True),
        f"rediss://127.0.0.1?ssl_ca_certs={ca}": ("required", True),
        "rediss://example.org?ssl_cert_reqs=none": ("none", False),
        "rediss://example.org?ssl_check_hostname=false": ("required", False),
    }.items():
        tls = connection.parse(url).tls
        assert tls is not None
        assert (tls["ssl_cert_reqs"], tls["ssl_check_hostname"]) == verified


def test_a_server_does_not_show_its_password() -> None:
    assert "secret" not in repr(connection.parse("redis://me:secret@h"))


async def test_an_encrypted_connection(encrypted: RedisServer, opener: Callable[..., RedisStore]) -> None:
    store = opener(f"{encrypted.url}?ssl_ca_certs={encrypted.ca_file}")
    await store.init()
    data = envelope("a", n=400)
    await write(store, {"a": data})
    assert bytes((await store.read("a")).data) == data
    assert "ok" in {f.status for f in await store.diagnose() if f.check == "tls"}
    unverified = opener(encrypted.url)  # on this machine nothing stands between
    assert (await unverified.head()).version == 1


async def test_a_certificate_that_cannot_be_trusted(
    encrypted: RedisServer, opener: Callable[..., RedisStore], tmp_path: Path
) -> None:
    stranger = make_certificates(tmp_path).ca
    right, wrong = f"ssl_ca_certs={encrypted.ca_file}", f"ssl_ca_certs={stranger}"
    for url in (
        f"{encrypted.url}?{wrong}",
        f"{encrypted.url}?ssl_cert_reqs=required",
        f"{encrypted.url.replace('127.0.0.1', 'localhost')}?{right}",
    ):
        with pytest.raises(TlsFailure) as caught:
            await opener(url).head()
        assert (caught.value.exit_code, caught.value.retryable) == (10, False)
    assert (await opener(f"{encrypted.url}?{right}").namespaces()) is not None


async def test_tls_on_one_side_only(
    encrypted: RedisServer, redis_server: RedisServer, opener: Callable[..., RedisStore]
) -> None:
    with pytest.raises((TlsFailure, StoreUnavailable)):
        await opener(redis_server.url.replace("redis:", "rediss:"), connect_timeout=0.5).head()
    with pytest.raises((TlsFailure, StoreUnavailable)):
        await opener(encrypted.url.replace("rediss:", "redis:"), connect_timeout=0.5).head()


async def test_a_unix_socket(redis_server: RedisServer, opener: Callable[..., RedisStore]) -> None:
    store = opener(redis_server.unix_url)
    await store.init()
    await put(store, "a")
    assert (await opener(redis_server.url).read("a")).version == 1
    with redis_server.client() as raw:
        raw.flushdb()
    with pytest.raises(StoreUnavailable):
        await opener("unix:///no/such/socket").head()


PASSWORD = "pa%2Fss%40%3F%23word"


@pytest.mark.parametrize("login", ["user:wrong@", "absent:password@", ""])
async def test_a_wrong_login(secured: RedisServer, opener: Callable[..., RedisStore], login: str) -> None:
    store = opener(f"redis://{login}127.0.0.1:{secured.port}")
    for call in (store.head(), store.init(), put(store, "a"), store.namespaces()):
        with pytest.raises(AccessDenied) as caught:
            await call
        assert "wrong" not in str(caught.value)
        assert "password" in f"{caught.value.message} {caught.value.hint}"
    (finding,) = await store.diagnose()
    assert (finding.check, finding.status) == ("reachable", "problem")


async def test_a_password_for_a_server_without_one(
    redis_server: RedisServer, opener: Callable[..., RedisStore]
) -> None:
    for login in (":secret", "me:secret"):
        with pytest.raises(AccessDenied):
            await opener(redis_server.url.replace("//", f"//{login}@")).head()


async def test_a_database_that_is_not_there(
    redis_server: RedisServer, opener: Callable[..., RedisStore]
) -> None:
    with pytest.raises(ConfigurationError):
        await opener(redis_server.url[:-1] + "99").head()


async def test_nobody_listens(opener: Callable[..., RedisStore]) -> None:
    store = opener("redis://127.0.0.1:1")
    for call in (store.head(), store.init(), put(store, "a"), store.durability(), listed(store.scan())):
        with pytest.raises(StoreUnavailable) as caught:
            await call
        assert caught.value.retryable
    assert [f.status for f in await store.diagnose()] == ["problem"]


@pytest.mark.source
async def test_a_user_with_the_rights_that_the_page_names_can_do_everything(
    secured: RedisServer, opener: Callable[..., RedisStore]
) -> None:
    page = Path(__file__).parents[2].joinpath("docs", "STORE_REDIS.md").read_text()
    assert RIGHTS in " ".join(page.replace("\\\n", " ").split())
    store = opener(f"redis://user:{PASSWORD}@127.0.0.1:{secured.port}")
    await store.init(retention=Retention(1, 0.0, 0.0))
    await put(store, "a", "b", expected=0)
    await write(store, {"a": envelope("a", n=400)})
    await delete(store, "b")
    await store.read("a")
    await store.read("a", 1)
    await store.read_many(["a", "b"])
    await store.stat_many(["a"])
    assert len(await listed(store.scan())) == 1
    await store.history("a")
    await store.log()
    assert (await store.commit_status("x", resolve=True)).state == "aborted"
    while (await store.compact()).more:
        pass
    await store.init(new_incarnation=True)
    assert len(await store.namespaces()) == 1
    assert [f for f in await store.diagnose() if f.status in ("problem", "unknown")] == []


async def test_a_user_without_scripts_is_told_which_right_is_missing(
    secured: RedisServer, opener: Callable[..., RedisStore]
) -> None:
    store = opener(f"redis://mute:password@127.0.0.1:{secured.port}")
    with pytest.raises(AccessDenied, match="eval") as caught:
        await store.init()
    assert "@scripting" in (caught.value.hint or "")
    findings = {f.check: f for f in await store.diagnose()}
    assert findings["permissions"].status == "problem"
    assert "@scripting" in findings["permissions"].advice


async def test_a_user_without_rights_to_the_names(
    secured: RedisServer, opener: Callable[..., RedisStore]
) -> None:
    with pytest.raises(AccessDenied):
        await opener(f"redis://other:password@127.0.0.1:{secured.port}").head()


async def test_a_server_that_tells_nothing_of_itself_is_not_trusted_with_writes(
    secured: RedisServer, opener: Callable[..., RedisStore]
) -> None:
    store = opener(f"redis://secretive:password@127.0.0.1:{secured.port}", "elsewhere")
    with pytest.raises(AccessDenied, match="maxmemory-policy") as caught:
        await store.init()
    assert "+info" in (caught.value.hint or "")
    statuses = {f.check: f.status for f in await store.diagnose()}
    assert statuses["maxmemory-policy"] == statuses["version"] == "unknown"


async def test_a_user_who_may_not_see_settings_commits_without_a_promise(
    secured: RedisServer, opener: Callable[..., RedisStore]
) -> None:
    store = opener(f"redis://discreet:password@127.0.0.1:{secured.port}", "discreet")
    await store.init()
    assert (await put(store, "a")).stores[0].durability == "memory"
    findings = {f.check: f for f in await store.diagnose()}
    assert findings["permissions"].status == "warning"
    assert findings["maxmemory-policy"].status == "ok"


async def test_a_closed_store_says_so(redis_server: RedisServer) -> None:
    store = RedisStore(redis_server.url)
    await store.close()
    with pytest.raises(SomactlError, match="closed"):
        await store.head()


async def test_constructing_touches_nothing() -> None:
    for url in ("redis://127.0.0.1:1", "unix:///no/such/socket", "redis+cluster://127.0.0.1:1"):
        await RedisStore(url).close()


async def test_many_calls_at_once_share_few_connections(
    redis_server: RedisServer, opener: Callable[..., RedisStore]
) -> None:
    backend = RedisBackend(redis_server.url, redis_server.client())
    store = opener(redis_server.url)
    await store.init()
    await put(store, "a")
    await asyncio.gather(*(store.read("a") for _ in range(500)))
    assert len(backend.raw.client_list()) <= 33
    await backend.dispose()

"""What only Redis has: other types, expiry, bytes that are no text, and somactl's own keys among the rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from servers.process import free_port
from servers.redis import RedisCluster, RedisServer
from somactl.core.names import Pattern
from somactl.errors import (
    AccessDenied,
    ConfigurationError,
    NotPrimary,
    OutcomeUnknown,
    SomactlError,
    StoreBusy,
    StoreFull,
    StoreUnavailable,
)
from somactl.legacy.source import redis as source_module
from somactl.legacy.source.contract import Change, Value
from somactl.legacy.source.redis import RedisSource
from somactl.store.redis.pool import Pool
from source.backends import RedisBackend
from source.suite import all_names, all_values

Open = Callable[..., RedisSource]


@pytest.fixture
def backend(redis_server: RedisServer) -> Iterator[RedisBackend]:
    backend = RedisBackend(redis_server)
    yield backend
    backend.dispose()


@pytest_asyncio.fixture
async def open_() -> AsyncIterator[Open]:
    opened: list[RedisSource] = []

    def open_source(url: str, **options: bool) -> RedisSource:
        opened.append(RedisSource(url, **options))
        return opened[-1]

    yield open_source
    for source in opened:
        await source.close()


async def test_everything_that_is_no_string_is_said_to_be_what_it_is(
    backend: RedisBackend, open_: Open
) -> None:
    with backend.server.client() as raw:
        raw.hset("hash", "a", "1")
        raw.rpush("list", "[1]")
        raw.sadd("set", "1")
        raw.zadd("zset", {"a": 1})
        raw.xadd("stream", {"a": "1"})
        raw.setbit("bits", 7, 1)
        raw.set("empty", "")
    keys = ["hash", "list", "set", "zset", "stream", "bits", "empty"]
    source = open_(backend.server.url, read_only=False)
    assert sorted(await all_names(source)) == sorted(keys)
    assert await all_values(source, keys) == [
        Value("hash", "other", detail="a Redis hash"),
        Value("list", "other", detail="a Redis list"),
        Value("set", "other", detail="a Redis set"),
        Value("zset", "other", detail="a Redis sorted set"),
        Value("stream", "other", detail="a Redis stream"),
        Value("bits", "text", b"\x01"),
        Value("empty", "text", b""),
    ]


async def test_what_is_no_string_is_neither_replaced_nor_taken_for_absent(
    backend: RedisBackend, open_: Open
) -> None:
    with backend.server.client() as raw:
        raw.hset("hash", "a", "1")
    source = open_(backend.server.url, read_only=False)
    for change in (
        Change("hash", b"1", b"2"),
        Change("hash", b"1", None),
        Change("hash", None, b"2"),
        Change("hash", None, None),
    ):
        assert await source.swap([change]) == [False]
    with backend.server.client() as raw:
        assert raw.hgetall("hash") == {b"a": b"1"}


async def test_what_somactl_itself_wrote_is_no_legacy_value(backend: RedisBackend, open_: Open) -> None:
    await backend.put({"somactl:{default}:head": b"1", "somactl:namespaces": b"2", "somactlike": b"3"})
    source = open_(backend.server.url)
    assert await all_names(source) == ["somactlike"]
    assert await all_names(source, "somactl*") == ["somactlike"]
    assert await all_names(source, "*head") == []


async def test_keys_that_are_no_utf8_keep_their_bytes(backend: RedisBackend, open_: Open) -> None:
    keys = [b"\xff\xfe", b"half \xc3", b"\x00\x01", "e\u0301".encode(), b"\xed\xa0\x80"]
    with backend.server.client() as raw:
        for key in keys:
            raw.set(key, key)
    source = open_(backend.server.url, read_only=False)
    names = await all_names(source)
    assert {name.encode("utf-8", "surrogateescape") for name in names} == set(keys)
    for value in await all_values(source, names):
        assert value.data == value.key.encode("utf-8", "surrogateescape")
    assert await all_names(source, "half ?") == ["half \udcc3"]
    assert await all_names(source, "\udcff*") == ["\udcff\udcfe"]
    assert await source.swap([Change("half \udcc3", b"half \xc3", None)]) == [True]
    with backend.server.client() as raw:
        assert not raw.exists(b"half \xc3")


async def test_an_expiry_is_told_kept_and_put_back(backend: RedisBackend, open_: Open) -> None:
    until = round(time.time()) + 1000
    with backend.server.client() as raw:
        raw.set("a", "1", exat=until)
        raw.set("b", "2")
    source = open_(backend.server.url, read_only=False)
    a, b = await source.fetch(["a", "b"])
    assert (a.expires_at, b.expires_at) == (until, None)
    assert await source.swap([Change("a", b"1", b"10"), Change("b", b"2", b"20")]) == [True, True]
    a, b = await source.fetch(["a", "b"])
    assert (a.data, a.expires_at, b.data, b.expires_at) == (b"10", until, b"20", None)
    assert await source.swap([Change("a", b"10", None)]) == [True]
    assert await source.swap([Change("a", None, b"1", expires_at=until + 0.25)]) == [True]
    (a,) = await source.fetch(["a"])
    assert (a.data, a.expires_at) == (b"1", until + 0.25)


async def test_what_would_have_expired_by_now_does_not_come_back(backend: RedisBackend, open_: Open) -> None:
    source = open_(backend.server.url, read_only=False)
    for expired in (time.time() - 1, 0.0, -5.0):
        assert await source.swap([Change("a", None, b"1", expires_at=expired)]) == [False]
        assert await backend.read("a") is None


async def test_a_value_that_expires_between_listing_and_reading_is_gone(
    backend: RedisBackend, open_: Open
) -> None:
    with backend.server.client() as raw:
        raw.set("a", "1", px=20)
    source = open_(backend.server.url)
    await asyncio.sleep(0.05)
    assert await source.fetch(["a"]) == [Value("a", "gone")]


async def test_a_key_that_changes_its_type_while_it_is_read_is_no_error(
    backend: RedisBackend, open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.put({"a": b"1", "b": b"2", "c": b"3"})
    source = open_(backend.server.url)
    exchange = Pool.exchange

    async def meanwhile(pool: Pool, commands: list[tuple[bytes, ...]], **options: bool) -> list[object]:
        if commands[0][0] == "GET":
            with backend.server.client() as raw:
                raw.delete("a", "b")
                raw.rpush("a", "1")
        return await exchange(pool, commands, **options)

    monkeypatch.setattr(Pool, "exchange", meanwhile)
    values = await source.fetch(["a", "b", "c"])
    assert [value.state for value in values] == ["other", "gone", "text"]


async def test_whoever_writes_between_comparing_and_setting_wins(
    backend: RedisBackend, open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One key of many is written once: the others are not held up."""
    await backend.put({f"key {number}": b"1" for number in range(50)})
    source = open_(backend.server.url, read_only=False)
    commands, times = source_module._commands, []

    def meanwhile(key: bytes, change: Change) -> object:
        if key == b"key 7" and not times:
            times.append(1)
            with backend.server.client() as raw:
                raw.set(key, "9")
        return commands(key, change)

    monkeypatch.setattr(source_module, "_commands", meanwhile)
    results = await source.swap([Change(f"key {number}", b"1", b"2") for number in range(50)])
    assert [number for number, result in enumerate(results) if not result] == [7]
    assert await backend.read("key 7") == b"9"


async def test_a_key_that_is_written_all_the_time_is_given_up_and_the_others_are_not(
    backend: RedisBackend, open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.put({"a": b"1", "b": b"1", "c": b"1"})
    source = open_(backend.server.url, read_only=False)
    commands = source_module._commands

    def meanwhile(key: bytes, change: Change) -> object:
        if key == b"b":
            with backend.server.client() as raw:
                raw.set(key, "1")
        return commands(key, change)

    monkeypatch.setattr(source_module, "_commands", meanwhile)
    with pytest.raises(StoreBusy, match="faster than it can be compared"):
        await source.swap([Change(key, b"1", b"2") for key in "abc"])
    assert [await backend.read(key) for key in "ab"] == [b"2", b"1"]


async def test_changes_whose_confirmation_is_lost_are_unknown_and_their_repetition_tells(
    backend: RedisBackend, open_: Open
) -> None:
    await backend.put({"a": b"1"})
    source = open_(backend.server.url, read_only=False)
    pool = source._nodes.pool()
    await pool.reach()
    connection = pool._idle[-1]
    read_response = connection.read_response

    async def lose(*arguments: object, **options: object) -> object:
        reply = await read_response(*arguments, **options)
        if isinstance(reply, list):  # that of EXEC
            raise ConnectionResetError("lost")
        return reply

    connection.read_response = lose
    with pytest.raises(OutcomeUnknown, match="did not confirm"):
        await source.swap([Change("a", b"1", b"2")])
    assert await source.swap([Change("a", b"1", b"2")]) == [True]


async def test_a_watch_does_not_outlive_its_connection(backend: RedisBackend, open_: Open) -> None:
    """A new connection watches nothing, so what was compared over the old one must not be set over it."""
    await backend.put({"a": b"1"})
    source = open_(backend.server.url, read_only=False)
    async with source._nodes.pool().pinned() as exchange:
        await exchange([("WATCH", "a")])
        with backend.server.client() as raw:
            raw.client_kill_filter(_type="normal", skipme=True)
        await asyncio.sleep(0.05)
        with pytest.raises(StoreUnavailable):
            await exchange([("MULTI",), ("SET", "a", "2"), ("EXEC",)])
        with pytest.raises(StoreUnavailable):
            await exchange([("SET", "a", "3")])
    assert await backend.read("a") == b"1"
    assert await source.swap([Change("a", b"1", b"2")]) == [True]


async def test_keys_are_listed_again_where_the_server_was_restarted_meanwhile(
    tmp_path: Path, open_: Open
) -> None:
    """A cursor is a place in a table that each process shuffles in its own way."""
    keys = {f"key {number}" for number in range(5000)}
    with RedisServer(tmp_path / "own", config={"save": "3600 1"}) as server:
        with server.client() as raw:
            raw.mset(dict.fromkeys(keys, "1"))
        source = open_(server.url)
        found: set[str] = set()
        restarted = False
        async for page in source.names(Pattern("key*")):
            found.update(page)
            if not restarted:
                with server.client() as raw:
                    raw.save()
                server.stop()
                server.start()
                restarted = True
                await asyncio.sleep(0.05)  # until the loop has seen the end of the old connection
        assert found == keys


async def test_an_unrelated_new_connection_does_not_begin_the_listing_anew(
    backend: RedisBackend, open_: Open
) -> None:
    keys = {f"key {number}" for number in range(5000)}
    await backend.put(dict.fromkeys(keys, b"1"))
    source = open_(backend.server.url)
    names = []
    async for page in source.names(None):
        names += page
        await asyncio.gather(*(source.fetch(["key 1"]) for _ in range(3)))
    assert sorted(names) == sorted(keys)


async def test_no_command_looks_at_all_keys_at_once(backend: RedisBackend, open_: Open) -> None:
    await backend.put({"a": b"1"})
    with backend.server.client() as raw:
        raw.config_resetstat()
    source = open_(backend.server.url, read_only=False)
    await all_values(source, await all_names(source))
    await source.swap([Change("a", b"1", b"2")])
    with backend.server.client() as raw:
        assert raw.info("commandstats").keys().isdisjoint({"cmdstat_keys", "cmdstat_eval", "cmdstat_evalsha"})


async def test_unix_sockets_and_tls_lead_there_too(
    tmp_path: Path, redis_server: RedisServer, backend: RedisBackend, open_: Open
) -> None:
    await backend.put({"a": b"1"})
    assert await all_names(open_(redis_server.unix_url)) == ["a"]
    with RedisServer(tmp_path / "tls", tls=True) as server:
        with server.client() as raw:
            raw.set("b", "2")
        url = f"{server.url}?ssl_ca_certs={server.ca_file}&ssl_check_hostname=false"
        assert await all_names(open_(url)) == ["b"]


async def test_a_cluster_is_refused_with_a_way_out(redis_cluster: RedisCluster, open_: Open) -> None:
    with pytest.raises(ConfigurationError, match="is a cluster") as caught:
        RedisSource(redis_cluster.url)
    assert "each node" in str(caught.value.hint)


async def test_who_cannot_be_reached_or_lets_us_not_in_is_named_without_the_password(
    tmp_path: Path, open_: Open
) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be reached") as caught:
        await all_names(open_(f"redis://:wrong-secret@127.0.0.1:{free_port()}/0"))
    assert caught.value.exit_code == 13
    assert "wrong-secret" not in str(caught.value)
    with RedisServer(tmp_path / "own", config={"requirepass": "secret"}) as server:
        for url in (server.url, server.url.replace("//", "//:wrong-secret@")):
            with pytest.raises(AccessDenied) as denied:
                await open_(url).fetch(["a"])
            assert "wrong-secret" not in str(denied.value)


async def test_a_user_who_may_only_read_can_dry_run_and_is_told_what_is_missing(
    tmp_path: Path, open_: Open
) -> None:
    users = ["default off", "reader on >pass ~* +scan +type +strlen +get +pexpiretime"]
    with RedisServer(tmp_path / "own", config={"user": users}) as server:
        source = open_(server.url.replace("//", "//reader:pass@"), read_only=False)
        assert await all_names(source) == []
        assert await source.fetch(["a"]) == [Value("a", "gone")]
        with pytest.raises(AccessDenied, match="lacks a right"):
            await source.swap([Change("a", None, b"1")])


async def test_a_replica_is_read_and_not_written(tmp_path: Path, open_: Open) -> None:
    with RedisServer(tmp_path / "primary") as primary:
        with primary.client() as raw:
            raw.set("a", "1")
        replica = RedisServer(tmp_path / "replica", config={"replicaof": f"127.0.0.1 {primary.port}"})
        with replica:
            for _ in range(200):
                with replica.client() as raw:
                    if raw.get("a"):
                        break
                await asyncio.sleep(0.05)
            source = open_(replica.url, read_only=False)
            assert await source.fetch(["a"]) == [Value("a", "text", b"1")]
            with pytest.raises(NotPrimary):
                await source.swap([Change("a", b"1", b"2")])


async def test_a_full_server_refuses_a_change_whole(tmp_path: Path, open_: Open) -> None:
    with RedisServer(tmp_path / "own") as server:
        with server.client() as raw:
            raw.mset({"a": "1", "b": "2"})
            raw.config_set("maxmemory", "1")
        source = open_(server.url, read_only=False)
        for changes in (
            [Change("a", b"1", b"[1]"), Change("b", b"2", b"[2]")],
            [Change("b", b"2", None), Change("c", None, b"3")],
        ):
            with pytest.raises(StoreFull):
                await source.swap(changes)
        with server.client() as raw:
            assert raw.mget("a", "b", "c") == [b"1", b"2", None]


async def test_after_close_nothing_is_asked_any_more(backend: RedisBackend) -> None:
    source = RedisSource(backend.server.url)
    await source.close()
    with pytest.raises(SomactlError, match="after it was closed"):
        await source.fetch(["a"])

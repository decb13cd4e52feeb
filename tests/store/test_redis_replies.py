"""What the server refuses, and how: each error reply is an error of somactl's tree, and writes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import redis

from servers.redis import RedisServer
from somactl.errors import (
    AccessDenied,
    ClusterDown,
    ConfigurationError,
    NotPrimary,
    OutcomeUnknown,
    SlotMoving,
    SomactlError,
    StoreBusy,
    StoreDamaged,
    StoreFull,
    StoreLoading,
    StoreUnavailable,
    TlsFailure,
    TooFewReplicas,
    WritesStopped,
)
from somactl.store.redis import RedisStore
from somactl.store.redis.failures import translate
from somactl.testing.values import envelope, put, write

LARGE = 300
"""n of matrices that are staged, and do not travel with their commit."""

REPLIES: dict[str, tuple[type[SomactlError], bool]] = {
    "ASK 3999 127.0.0.1:6381": (SlotMoving, True),
    "MOVED 3999 127.0.0.1:6381": (SlotMoving, True),
    "TRYAGAIN Multiple keys request during rehashing of slot": (SlotMoving, True),
    "CLUSTERDOWN The cluster is down": (ClusterDown, True),
    "CLUSTERDOWN Hash slot not served": (ClusterDown, True),
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": (NotPrimary, True),
    "READONLY You can't write against a read only replica.": (NotPrimary, True),
    "LOADING Redis is loading the dataset in memory": (StoreLoading, True),
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.": (
        StoreBusy,
        True,
    ),
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist.": (
        WritesStopped,
        False,
    ),
    "MISCONF Errors writing to the AOF file: No space left on device": (WritesStopped, False),
    "NOREPLICAS Not enough good replicas to write.": (TooFewReplicas, True),
    "OOM command not allowed when used memory > 'maxmemory'.": (StoreFull, False),
    "OOM command not allowed when used memory > 'maxmemory'. script: 1f, on @user_script:12.": (
        StoreFull,
        False,
    ),
    "NOAUTH Authentication required.": (AccessDenied, False),
    "WRONGPASS invalid username-password pair or user is disabled.": (AccessDenied, False),
    "NOPERM this user has no permissions to run the 'evalsha' command": (AccessDenied, False),
    "NOPERM this user has no permissions to access one of the keys used as arguments": (AccessDenied, False),
    "ERR ACL failure in script: User x has no permissions to run the 'hset' command": (AccessDenied, False),
    "DENIED Redis is running in protected mode because protected mode is enabled": (AccessDenied, False),
    "ERR max number of clients reached": (StoreBusy, True),
    "ERR unknown command 'EVALSHA', with args beginning with: ": (AccessDenied, False),
    "WRONGTYPE Operation against a key holding the wrong kind of value": (StoreDamaged, False),
    "CROSSSLOT Keys in request don't hash to the same slot": (ConfigurationError, False),
}


class Stub:
    """Answers every command with the same line, and hangs up on one of more than `longest` words."""

    def __init__(self, line: str, longest: int = 1_000_000) -> None:
        self.line = line
        self.longest = longest
        self.url = ""
        self._conversations: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Stub]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self
        if self._conversations:  # a loop must not end under one that has yet to see that its client is gone
            await asyncio.wait(self._conversations, timeout=5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._conversations.add(task)
        try:
            await self._converse(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (head := await reader.readline()) and int(head[1:]) <= self.longest:
            words = []
            for _ in range(int(head[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            writer.write(b"+OK\r\n" if words[0] == b"CLIENT" else self.line.encode() + b"\r\n")


@pytest.mark.parametrize("line", REPLIES)
async def test_each_error_reply_has_its_error(line: str) -> None:
    kind, retryable = REPLIES[line]
    async with Stub("-" + line).serving() as stub:
        store = RedisStore(stub.url)
        for call in (store.head(), store.read("a"), put(store, "a"), store.init(), store.commit_status("x")):
            with pytest.raises(SomactlError) as caught:
                await call
            if kind is SlotMoving:  # of a server that was not named as a cluster
                assert isinstance(caught.value, ConfigurationError)
            elif kind is not StoreDamaged:  # which of a value is told apart, and tested elsewhere
                assert type(caught.value) is kind
                assert caught.value.retryable is retryable
            assert caught.value.hint
        await store.close()


async def test_who_has_no_password_is_told_before_a_commit_is_sent() -> None:
    """Redis hangs up on more than 10 words without a login, and its reply to them may be lost."""
    async with Stub("-NOAUTH Authentication required.", longest=10).serving() as stub:
        store = RedisStore(stub.url)
        for call in (store.head(), put(store, "a"), store.write_notes({"note": b"x"}, {})):
            with pytest.raises(AccessDenied):
                await call
        await store.close()


@pytest.mark.parametrize("line", REPLIES)
def test_an_error_reply_is_never_an_unknown_outcome(line: str) -> None:
    from redis._parsers.base import BaseParser

    error = translate(BaseParser.parse_error(line), "a place", "an-id")
    kind, retryable = REPLIES[line]
    assert type(error) is kind
    assert error.retryable is retryable
    assert "a place" in error.message


@pytest.mark.parametrize("line", ["$-2", "hello", "?", "HTTP/1.1 400 Bad Request"])
async def test_a_server_that_is_no_redis(line: str) -> None:
    async with Stub(line).serving() as stub:
        store = RedisStore(stub.url)
        with pytest.raises(TlsFailure, match="does not answer as a Redis"):
            await store.head()
        await store.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


@pytest_asyncio.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisStore]:
    store = RedisStore(server.url)
    await store.init()
    await put(store, "a", commit_id="first")
    yield store
    await store.close()


@contextmanager
def unchanged(raw: redis.Redis) -> Iterator[None]:
    """Nothing in the database differs afterwards."""
    before = contents(raw)
    yield
    assert contents(raw) == before


def contents(raw: redis.Redis) -> dict[bytes, bytes]:
    return {name: raw.dump(name) for name in raw.scan_iter()}


async def refused(store: RedisStore, kind: type[SomactlError]) -> None:
    """Small commits and large ones are refused, reads go on, and the ids are free."""
    for n in (3, LARGE):
        with pytest.raises(SomactlError) as caught:
            await write(store, {"a": envelope("a", 1, n=n)}, commit_id=f"refused-{n}")
        assert type(caught.value) is kind
    assert (await store.read("a")).version == 1
    if kind is NotPrimary:  # what a replica knows of a commit is not final
        with pytest.raises(NotPrimary):
            await store.commit_status("refused-3")
    else:
        assert (await store.commit_status("refused-3")).state == "unseen"


async def accepted(store: RedisStore) -> None:
    for number, n in enumerate((3, LARGE)):
        receipt = await write(store, {"a": envelope("a", 1, n=n)}, commit_id=f"refused-{n}")
        assert (receipt.version, receipt.replayed) == (number + 2, False)


async def test_a_full_server_refuses_before_the_first_write(server: RedisServer, store: RedisStore) -> None:
    with server.client() as raw:
        with unchanged(raw):
            raw.config_set("maxmemory", "1mb")
            await refused(store, StoreFull)
            with pytest.raises(StoreFull):
                await store.commit_status("x", resolve=True)
        raw.config_set("maxmemory", "0")
        await accepted(store)


async def test_a_server_that_fills_up_between_staging_and_commit(
    server: RedisServer, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = store._link.ask
    with server.client() as raw:

        async def full(*commands: Any, commit_id: str | None = None, **rest: Any) -> list[Any]:
            if commit_id is not None:
                raw.config_set("maxmemory", "1mb")
            return await ask(*commands, commit_id=commit_id, **rest)

        with unchanged(raw):
            monkeypatch.setattr(store._link, "ask", full)
            with pytest.raises(StoreFull):
                await write(store, {key: envelope(key, 1, n=LARGE) for key in "abc"}, commit_id="refused")
        raw.config_set("maxmemory", "0")
        monkeypatch.undo()
        assert (await write(store, {"a": envelope("a", 1, n=LARGE)}, commit_id="refused")).version == 2


async def test_a_full_server_can_be_compacted(server: RedisServer, store: RedisStore) -> None:
    for seed in range(5):
        await write(store, {"a": envelope("a", seed, n=LARGE)})
    with server.client() as raw:
        raw.config_set("maxmemory", "1mb")
        assert (await store.compact()).revisions == 4
        raw.config_set("maxmemory", "0")
    assert (await put(store, "a")).version == 7


async def test_a_replica_takes_no_commit(server: RedisServer, store: RedisStore, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "primary") as primary, server.client() as raw:
        raw.replicaof("127.0.0.1", primary.port)
        with pytest.raises(NotPrimary):
            await put(store, "a", seed=1)
        findings = {f.check: f for f in await store.diagnose()}
        assert findings["replicas"].status == "problem"
        raw.replicaof("NO", "ONE")


async def test_a_primary_that_becomes_a_replica(
    server: RedisServer, store: RedisStore, tmp_path: Path
) -> None:
    """Reads go on, and no commit is lost: none is taken."""
    with server.client() as raw:
        raw.config_set("replica-serve-stale-data", "yes")
        raw.replicaof("127.0.0.1", "1")
        await refused(store, NotPrimary)
        raw.replicaof("NO", "ONE")
    await accepted(store)


async def test_too_few_replicas(server: RedisServer, store: RedisStore) -> None:
    with server.client() as raw:
        with unchanged(raw):
            raw.config_set("min-replicas-to-write", "1")
            await refused(store, TooFewReplicas)
        raw.config_set("min-replicas-to-write", "0")
    await accepted(store)


async def test_a_server_that_cannot_save(tmp_path: Path) -> None:
    config = {"save": "3600 1", "dbfilename": "occupied"}
    with RedisServer(tmp_path, config=config) as server, server.client() as raw:
        store = RedisStore(server.url)
        await store.init()
        await put(store, "a", commit_id="first")
        occupied = server.folder / "data" / "occupied"
        occupied.mkdir()
        raw.bgsave()
        await until(lambda: raw.info("persistence")["rdb_last_bgsave_status"] == "err")
        with unchanged(raw):
            await refused(store, WritesStopped)
            findings = {f.check: f.status for f in await store.diagnose()}
            assert findings["persistence"] == "problem"
        raw.config_set("stop-writes-on-bgsave-error", "no")
        await accepted(store)
        await store.close()
        occupied.rmdir()  # or it would not even stop


async def until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_somebody_s_long_script(server: RedisServer, store: RedisStore) -> None:
    with server.client() as raw:
        raw.config_set("busy-reply-threshold", "20")
        with server.client() as culprit:
            script = asyncio.create_task(asyncio.to_thread(_hog, culprit))
            await until(lambda: _is_busy(raw))
            for call in (store.read("a"), put(store, "a", seed=1, commit_id="refused-3")):
                with pytest.raises(StoreBusy):
                    await call
            raw.script_kill()
            await script
    await accepted(store)


def _hog(culprit: redis.Redis) -> None:
    with pytest.raises(redis.ResponseError):
        culprit.eval("while true do end", 0)


def _is_busy(raw: redis.Redis) -> bool:
    try:
        raw.get("anything")
    except redis.ResponseError as exc:
        return str(exc).startswith("BUSY")
    return False


async def test_a_server_that_reads_its_data(server: RedisServer, store: RedisStore) -> None:
    with server.client() as raw:
        for number in range(100):
            raw.set(f"filler-{number}", "x" * 100)
        raw.save()
    await store.close()
    server.stop()
    server.config |= {"key-load-delay": "10000", "loading-process-events-interval-bytes": "1024"}
    starting = asyncio.create_task(asyncio.to_thread(server.start))
    other = RedisStore(server.url)
    outcomes: list[SomactlError] = []
    while not starting.done():
        for call in (other.read("a"), put(other, "a", seed=1)):
            try:
                await call
            except StoreUnavailable as exc:
                outcomes.append(exc)
        await asyncio.sleep(0.05)
    await starting
    assert StoreLoading in {type(error) for error in outcomes}
    assert all(error.retryable and not isinstance(error, OutcomeUnknown) for error in outcomes)
    assert (await other.read("a")).version >= 1
    await other.close()


async def test_a_server_with_no_room_for_another_client(server: RedisServer, store: RedisStore) -> None:
    with server.client() as raw:
        raw.config_set("maxclients", "2")
        other = RedisStore(server.url)
        with pytest.raises(StoreUnavailable) as caught:  # it hangs up, perhaps before it can say why
            await other.head()
        assert caught.value.retryable
        await other.close()
        raw.config_set("maxclients", "100")


async def test_a_stop_of_the_server_is_told_as_it_is(server: RedisServer, store: RedisStore) -> None:
    server.stop()
    await asyncio.sleep(0.05)  # the event loop has been kept from hearing it
    with pytest.raises(StoreUnavailable) as caught:
        await put(store, "a")
    assert not isinstance(caught.value, OutcomeUnknown)
    server.start()
    await store.init()
    assert (await put(store, "a")).version == 1

"""A server that is replaced, or says so, at any step of a commit: what it told is never more than what is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from servers.redis import ClusterNode, RedisCluster, RedisServer
from somactl.errors import NotPrimary, OutcomeUnknown, SomactlError, VersionConflict
from somactl.store.redis import RedisStore, writing
from somactl.store.redis.writing import COMMIT, DELETE
from somactl.testing.values import envelope, put, write
from store.interceptor import Interceptor, Words
from store.replicas import AT_ONCE, attach, follow, take_over, until

LARGE = 300
"""n of matrices that are staged, and do not travel with their commit."""
REPLIES = {
    "MOVED 3999 127.0.0.1:1": (10, 14),
    "ASK 3999 127.0.0.1:1": (10, 14),
    "TRYAGAIN Multiple keys request during rehashing of slot": (10, 14),
    "CLUSTERDOWN The cluster is down": (13, 14),
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": (13, 14),
    "READONLY You can't write against a read only replica.": (13, 14),
    "LOADING Redis is loading the dataset in memory": (13, 14),
    "NOREPLICAS Not enough good replicas to write.": (13, 14),
    "MISCONF Errors writing to the AOF file: No space left on device": (13, 14),
    "OOM command not allowed when used memory > 'maxmemory'.": (13, 14),
    "BUSY Redis is busy running a script.": (13, 14),
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)": (14, 14),
    "ERR WAIT cannot be used with replica instances.": (14, 14),
    "FAILINGOVER what a newer server may say": (14, 14),
    "": (14, 14),
}
"""What a server answers while it is replaced ('': it hangs up), and the exit code that is right where it says
so in place of the script that commits, and behind that script."""


def _is(*scripts: writing.Script) -> Callable[[Words], bool]:
    digests = {script.digest.encode() for script in scripts} | {script.source for script in scripts}
    return lambda words: words[0] in (b"EVALSHA", b"EVAL") and words[1] in digests


BEFORE: dict[str, Callable[[Words], bool]] = {
    "settings": lambda words: words[:2] == [b"CONFIG", b"GET"],
    "staging": lambda words: words[0] == b"SET",
}
SCRIPT = _is(COMMIT, DELETE)
BEHIND: dict[str, Callable[[Words], bool]] = {
    "wait": lambda words: words[0] == b"WAIT",
    "record": _is(writing.RECORD),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A primary with a replica; a test has its own namespace."""
    folder = tmp_path_factory.mktemp("pair")
    with RedisServer(folder / "one", config=AT_ONCE) as one, RedisServer(folder / "two") as two:
        asyncio.run(follow(two, one))
        with one.client() as raw:
            for script in (COMMIT, DELETE):  # else the first call is refused, which is no reply to a commit
                raw.script_load(script.source)
        yield one


@asynccontextmanager
async def intercepted(server: RedisServer, namespace: str) -> AsyncIterator[tuple[Interceptor, RedisStore]]:
    async with Interceptor(server).serving() as between:
        store = RedisStore(server.url, namespace)
        await store.init()
        await put(store, "warm", commit_id="warm")
        await store.close()
        store = RedisStore(between.url + "?wait_replicas=1", namespace)
        yield between, store
        await store.close()


async def commit(store: RedisStore, kind: str) -> SomactlError:
    data = envelope("a", n=LARGE, namespace=store.namespace)
    updates, expected = ({"warm": None}, 1) if kind == "delete" else ({"a": data}, None)
    with pytest.raises(SomactlError) as caught:
        await write(store, updates, commit_id="this", expected=expected)
    return caught.value


async def state(server: RedisServer, namespace: str) -> tuple[str, int]:
    """What became of the commit, and the version of the namespace."""
    store = RedisStore(server.url, namespace)
    found = (await store.commit_status("this")).state, (await store.head()).version
    await store.close()
    return found


@pytest.mark.parametrize("line", REPLIES)
async def test_each_reply_at_each_step_of_a_commit(pair: RedisServer, line: str) -> None:
    at_script, behind = REPLIES[line]
    number = list(REPLIES).index(line)
    for kind in ("put", "delete"):
        steps: dict[str, tuple[Callable[[Words], bool], bool]] = {
            **{name: (chosen, False) for name, chosen in BEFORE.items()},
            "script, not carried out": (SCRIPT, False),
            **({"script, carried out": (SCRIPT, True)} if at_script == 14 else {}),
            **{name: (chosen, False) for name, chosen in BEHIND.items()},
        }
        for step, (chosen, carried_out) in steps.items():
            if kind == "delete" and step == "staging":
                continue
            namespace = f"{kind}-{number}-{list(steps).index(step)}"
            async with intercepted(pair, namespace) as (between, store):
                between.chosen, between.line, between.carried_out = chosen, line, carried_out
                error = await commit(store, kind)
            written = carried_out or step in BEHIND
            assert await state(pair, namespace) == (("committed", 2) if written else ("unseen", 1)), step
            if step in BEFORE:
                assert error.exit_code in (10, 13), (step, error)
            else:
                assert error.exit_code == (behind if step in BEHIND else at_script), (step, error)
                assert written is False or isinstance(error, OutcomeUnknown)


async def test_a_record_is_never_made_where_the_commit_is_not(pair: RedisServer) -> None:
    """As if the server had been replaced behind the script by one that does not have the commit."""
    async with intercepted(pair, "lost") as (between, store):
        with pair.client() as raw:
            between.chosen, between.carried_out, between.replaces = BEHIND["wait"], True, False
            between.before = lambda: raw.delete("somactl:{lost}:commit:this")
            error = await commit(store, "put")
            assert isinstance(error, OutcomeUnknown)
            assert not raw.exists("somactl:{lost}:commit:this")


@pytest.mark.parametrize("kind", ["put", "delete"])
async def test_a_replica_confirms_every_kind_of_commit(pair: RedisServer, kind: str) -> None:
    store = RedisStore(pair.url + "?wait_replicas=1", f"confirmed-{kind}")
    await store.init()
    receipt = await put(store, "a", commit_id="put")
    if kind == "delete":
        receipt = await write(store, {"a": None}, commit_id="delete", expected=1)
    assert receipt.stores[0].durability == "replicated:1"
    status = await store.commit_status(receipt.commit_id)
    assert status.record is not None
    assert status.record.receipt == receipt
    await store.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """WAIT lasts until what the test does ends it."""
    monkeypatch.setattr(writing, "WAIT_MS", 25_000)


async def waiting(server: RedisServer, task: asyncio.Task[object]) -> None:
    with server.client() as raw:
        await until(lambda: task.done() or any(each["cmd"] == "wait" for each in raw.client_list()))
    assert not task.done()


async def test_a_server_that_becomes_a_replica_during_the_wait(tmp_path: Path, patient: None) -> None:
    with RedisServer(tmp_path / "one") as one, RedisServer(tmp_path / "two") as two:
        store = RedisStore(one.url + "?wait_replicas=1")
        await store.init()
        task = asyncio.create_task(put(store, "a", commit_id="this"))
        await waiting(one, task)
        with one.client() as raw:
            raw.replicaof("127.0.0.1", two.port)
        with pytest.raises(OutcomeUnknown):
            await task
        # It still has the record, and the primary that it follows does not: it must not vouch for the commit.
        for call in (
            put(store, "a", commit_id="this"),
            write(store, {"a": None}, commit_id="this"),
            store.commit_status("this"),
            store.commit_status("this", resolve=True),
            store.events(),
            store.publishing(),
            store.mark_published(1),
            store.set_publishing(None),
        ):
            with pytest.raises(NotPrimary):
                await call
        await store.close()


async def test_a_failover_of_the_cluster_during_the_wait(tmp_path: Path, patient: None) -> None:
    """The commit is on the new primary, and `status` says so."""
    with RedisCluster(tmp_path / "cluster", config=AT_ONCE) as cluster:
        primary = cluster.node_of("{default}")
        with ClusterNode(tmp_path / "replica", config=dict(primary.config)) as replica:
            await attach(cluster, primary, replica)
            store = RedisStore(cluster.url + "?wait_replicas=2")
            await store.init()
            task = asyncio.create_task(put(store, "a", commit_id="this"))
            await waiting(primary, task)
            await take_over(replica)
            with pytest.raises(OutcomeUnknown):
                await task
            status = await store.commit_status("this")
            assert status.state == "committed"
            with replica.client() as raw:
                assert raw.zrange("somactl:{default}:log", 0, -1) == [b"this"]
            await store.close()


# A server that takes over without the newest commits


async def failover_finding(store: RedisStore) -> str:
    (found,) = [finding for finding in await store.diagnose() if finding.check == "failover"]
    return f"{found.status}: {found.detail}"


async def test_a_failover_that_lost_commits_is_told_until_a_new_incarnation(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "one", config=AT_ONCE) as one, RedisServer(tmp_path / "two") as two:
        old, new = RedisStore(one.url), RedisStore(two.url)
        await old.init()
        await put(old, "a")
        await follow(two, one)
        assert (await failover_finding(old)).startswith("ok")
        with two.client() as raw:
            raw.replicaof("NO", "ONE")
        lost = await put(old, "a", seed=1)  # acknowledged, and on no replica
        one.kill()
        assert "after version 1" in await failover_finding(new)
        with pytest.raises(VersionConflict, match="version 2 was never reached here"):
            await put(new, "a", expected=lost.version)
        again = await put(new, "a", seed=2)
        assert (again.incarnation, again.version) == (lost.incarnation, lost.version)
        await put(new, "a", seed=3, expected=lost.version)  # what a digest would have told
        assert (await failover_finding(new)).startswith("warning: the server was replaced")
        assert "after version 1" in await failover_finding(new)
        await write(new, {"a": None}, expected=3)
        assert "after version 1" in await failover_finding(new)
        await new.init(new_incarnation=True)
        await put(new, "a")
        assert (await failover_finding(new)).startswith("ok")
        await old.close()
        await new.close()


@pytest.mark.parametrize(("fsync", "told"), [("always", "ok"), ("everysec", "warning")])
async def test_a_restart_is_told_where_it_may_have_lost_something(
    tmp_path: Path, fsync: str, told: str
) -> None:
    config = {"appendonly": "yes", "appendfsync": fsync}
    with RedisServer(tmp_path, config=config) as server:
        store = RedisStore(server.url)
        await store.init()
        await put(store, "a")
        await store.close()
        server.kill()
        server.start()
        store = RedisStore(server.url)
        assert (await failover_finding(store)).startswith(told)
        await put(store, "a", seed=1)
        assert (await failover_finding(store)).startswith(told)
        await store.close()

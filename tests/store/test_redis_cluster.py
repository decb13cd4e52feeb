"""The Redis store on three nodes, while the namespace's slot is on its way from one to another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from servers.redis import ClusterNode, RedisCluster, RedisServer
from somactl.errors import ClusterDown, ConfigurationError, SlotMoving, StoreUnavailable
from somactl.store.contract import Receipt
from somactl.store.redis import RedisStore, link
from somactl.testing.values import envelope, listed, put, write
from store.redis_backend import RedisBackend, store as store
from store.replicas import AT_ONCE, attach, take_over

KEYS = [f"k{number:02}" for number in range(12)]
SLOT = key_slot(b"default")  # of the hash tag of the namespace `default`
LARGE = 300
"""n of matrices that are staged, and do not travel with their commit."""


@pytest.fixture
def backend(redis_cluster: RedisCluster) -> Iterator[RedisBackend]:
    backend = RedisBackend(redis_cluster.url, redis_cluster.client())
    yield backend
    asyncio.run(backend.dispose())


class Move:
    """The slot of the namespace on its way to another node; its end brings it there."""

    def __init__(self, cluster: RedisCluster) -> None:
        self.cluster = cluster
        self.source = cluster.node_of("{default}")
        self.target = next(node for node in cluster.nodes if node is not self.source)

    def begin(self) -> None:
        self.cluster.move_slot(SLOT, self.source, self.target, finish=False)

    def some(self, count: int) -> list[bytes]:
        return self.cluster.migrate(SLOT, self.source, self.target, count)

    def finish(self) -> None:
        self.cluster.move_slot(SLOT, self.source, self.target, finish=True)


@pytest.fixture
def move(redis_cluster: RedisCluster, backend: RedisBackend) -> Iterator[Move]:
    move = Move(redis_cluster)
    yield move
    if redis_cluster.node_of("{default}") is move.source:
        move.finish()


def after_staging(store: RedisStore, patch: pytest.MonkeyPatch, act: Callable[[], Awaitable[Any]]) -> None:
    """Do something between the moment a commit has staged its values and the script that takes them."""
    ask = store._link.ask

    async def interrupted(*commands: Any, commit_id: str | None = None, **rest: Any) -> list[Any]:
        if commit_id is not None:
            await act()
        return await ask(*commands, commit_id=commit_id, **rest)

    patch.setattr(store._link, "ask", interrupted)


async def all_there(store: RedisStore, seeds: dict[str, int], n: int = 3) -> None:
    """Every way to read shows the same."""
    snapshot = await store.read_many(list(seeds))
    assert not snapshot.corrupt
    for key, seed in seeds.items():
        data = envelope(key, seed, n=n)
        assert bytes((await store.read(key)).data) == data == bytes(snapshot.entries[key].data)
    assert [stat.key for stat in await listed(store.scan())] == sorted(seeds)


@pytest.mark.parametrize("moved", [0, 1, 7, 20])
async def test_a_slot_that_moves_while_a_commit_is_staged(
    store: RedisStore, move: Move, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    """Live and staged keys are on both nodes when the script comes; it runs when they are on one again."""
    await put(store, *KEYS)

    async def half() -> None:
        await asyncio.to_thread(move.begin)
        await asyncio.to_thread(move.some, moved)

    after_staging(store, monkeypatch, half)
    updates = {key: envelope(key, 1, n=LARGE) for key in KEYS}
    task = asyncio.create_task(write(store, updates, commit_id="mid-move"))
    await asyncio.sleep(0.3)
    assert not task.done()
    await asyncio.to_thread(move.finish)
    receipt = await task
    assert (receipt.version, receipt.replayed) == (2, False)
    await all_there(store, dict.fromkeys(KEYS, 1), n=LARGE)
    for key in KEYS:
        assert bytes((await store.read(key, 1)).data) == envelope(key)


async def test_a_slot_that_has_moved_since_the_commit_was_staged(
    store: RedisStore, move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store, "a")

    async def whole() -> None:
        await asyncio.to_thread(move.finish)

    after_staging(store, monkeypatch, whole)
    assert (await write(store, {"a": envelope("a", 1, n=LARGE)})).version == 2
    await all_there(store, {"a": 1}, n=LARGE)


async def test_a_slot_that_stays_half_moved_refuses_commits_and_loses_nothing(
    backend: RedisBackend, store: RedisStore, move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "REDIRECT_SECONDS", 0.3)
    await put(store, *KEYS)
    move.begin()
    move.some(15)
    for n in (3, LARGE):
        with pytest.raises(SlotMoving) as caught:
            await write(store, {key: envelope(key, 1, n=n) for key in KEYS}, commit_id=f"refused-{n}")
        assert caught.value.retryable
    for key in KEYS:  # each lies on one of two nodes, and a single key is found on either
        assert bytes((await store.read(key)).data) == envelope(key)
    assert (await store.head()).version == 1
    move.finish()
    await all_there(store, dict.fromkeys(KEYS, 0))
    assert (await store.commit_status("refused-3")).state == "unseen"
    assert (await put(store, "a")).version == 2
    assert not list(backend.names("default", "stage"))


async def test_commits_and_reads_during_a_whole_move(store: RedisStore, move: Move) -> None:
    """A writer and a reader go on while keys are moved one by one; what is refused is not there."""
    await put(store, *KEYS)
    done = asyncio.Event()
    versions = [1]

    async def keep_writing() -> None:
        seed = 0
        while not done.is_set():
            seed += 1
            receipt = await put(store, "a", "b", seed=seed)
            versions.append(receipt.version)

    async def keep_reading() -> None:
        while not done.is_set():
            for key in KEYS:
                assert bytes((await store.read(key)).data) == envelope(key)

    tasks = [asyncio.create_task(keep_writing()), asyncio.create_task(keep_reading())]
    await asyncio.sleep(0.05)
    await asyncio.to_thread(move.begin)
    while await asyncio.to_thread(move.some, 3):
        await asyncio.sleep(0.005)
    await asyncio.to_thread(move.finish)
    await asyncio.sleep(0.05)
    done.set()
    await asyncio.gather(*tasks)
    assert versions == list(range(1, len(versions) + 1))
    assert len(versions) > 3
    snapshot = await store.read_many(["a", "b"])
    assert {entry.version for entry in snapshot.entries.values()} == {versions[-1]}


async def test_a_new_store_finds_its_way_from_any_node(
    redis_cluster: RedisCluster, store: RedisStore, move: Move
) -> None:
    await put(store, "a")
    move.finish()
    for node in redis_cluster.nodes:
        other = RedisStore(f"redis+cluster://127.0.0.1:{node.port}")
        assert (await other.read("a")).version == 1
        await other.close()


async def test_a_seed_that_is_down_is_passed_over(redis_cluster: RedisCluster, store: RedisStore) -> None:
    await put(store, "a")
    other = RedisStore(f"redis+cluster://127.0.0.1:1,127.0.0.1:{redis_cluster.nodes[2].port}")
    assert (await other.read("a")).version == 1
    await other.close()


async def test_a_single_server_is_no_cluster_nor_a_cluster_a_single_server(
    redis_cluster: RedisCluster, redis_server: RedisServer, store: RedisStore
) -> None:
    other = next(node for node in redis_cluster.nodes if node is not redis_cluster.node_of("{default}"))
    for url in (f"redis://127.0.0.1:{other.port}", redis_server.url.replace("redis:", "redis+cluster:")[:-2]):
        wrong = RedisStore(url)
        with pytest.raises(ConfigurationError):
            await wrong.head()
        await wrong.close()


async def test_namespaces_on_several_nodes(redis_cluster: RedisCluster, backend: RedisBackend) -> None:
    names = ["alpha", "beta", "gamma", "delta"]
    assert len({redis_cluster.node_of(f"{{{name}}}").port for name in names}) > 1
    stores = [backend.open(name) for name in names]
    for each in stores:
        await each.init()
        await put(each, "a", "b")
    summaries = await stores[0].namespaces()
    assert [(s.head.namespace, s.keys) for s in summaries] == [(name, 2) for name in sorted(names)]
    for each in stores:
        await each.close()


async def test_a_cluster_that_has_lost_a_node(tmp_path: Path) -> None:
    with RedisCluster(tmp_path, config={"cluster-node-timeout": "500"}) as cluster:
        store = RedisStore(cluster.url)
        await store.init()
        await put(store, "a")
        other = next(node for node in cluster.nodes if node is not cluster.node_of("{default}"))
        other.kill()
        outcomes: set[type[BaseException]] = set()
        for _ in range(300):
            result = (await asyncio.gather(put(store, "b"), return_exceptions=True))[0]
            if not isinstance(result, Receipt):
                assert isinstance(result, StoreUnavailable)
                assert result.retryable
                outcomes.add(type(result))
            if ClusterDown in outcomes:
                break
            await asyncio.sleep(0.02)
        assert ClusterDown in outcomes
        await store.close()


async def test_a_failover_in_the_cluster(tmp_path: Path) -> None:
    """The replica that takes over has the data, and none of the scripts: they are not replicated."""
    with RedisCluster(tmp_path / "cluster", config=AT_ONCE) as cluster:
        primary = cluster.node_of("{default}")
        replica = ClusterNode(tmp_path / "replica", config=dict(primary.config))
        with replica:
            await attach(cluster, primary, replica)
            store = RedisStore(cluster.url)
            await store.init()
            await put(store, "a")
            await put(store, "a", seed=1)
            with replica.client() as raw:
                await take_over(replica)
                assert raw.info("memory")["number_of_cached_scripts"] == 0
            receipt = await put(store, "a", seed=2, expected=2)
            assert receipt.version == 3
            assert (await store.read("a", 1)).version == 1
            assert len(await listed(store.scan())) == 1
            # The node that the URL named may be gone as well: the others have been learnt.
            primary.kill()
            cluster.nodes[0].kill()
            assert (await store.read("a")).version == 3
            await store.close()

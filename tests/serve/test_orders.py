"""The door of prune orders: one run for each id, however often it is sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from prune.orders import live
from somactl.errors import (
    CommitIdReused,
    InputRejected,
    LockHeld,
    StoreBusy,
    StoreUnavailable,
    Terminated,
    UsageError,
)
from somactl.operations.inspect import log
from somactl.operations.orders import OrderOptions, Orders, Run
from somactl.report import PruneReport
from somactl.store.contract import Store
from somactl.store.wrapper import ReadOnly, StoreWrapper
from somactl.testing.values import put
from support.sqlite_backend import SqliteBackend

KEYS = [f"key-{number:02}" for number in range(10)]


class Gate(StoreWrapper):
    """A store whose commits wait at a gate until it is opened; `waiting` is set once one does."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.waiting, self.gate = asyncio.Event(), asyncio.Event()

    async def commit_matrix_update(self, *arguments: Any, **options: Any) -> Any:
        self.waiting.set()
        await self.gate.wait()
        return await super().commit_matrix_update(*arguments, **options)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = SqliteBackend(tmp_path / "store.db").open()
    await put(store, *KEYS)
    yield store
    await store.close()


def order(*keys: str) -> bytes:
    return json.dumps(keys or KEYS).encode()


async def begin(orders: Orders, store: Store, data: bytes, **options: Any) -> Run:
    return await orders.begin(store, data, OrderOptions(**options), caller="manager-1", door="http")


async def report(orders: Orders, store: Store, data: bytes, **options: Any) -> PruneReport:
    found = await (await begin(orders, store, data, **options)).report()
    assert found is not None
    return found


async def test_an_order_is_carried_out_once_and_says_who_sent_it(store: Store) -> None:
    orders = Orders()
    first = await report(orders, store, order(*KEYS[:3]), order_id="n-1")
    again = await report(orders, store, order(*KEYS[:3]), order_id="n-1")
    assert (first.deleted_keys, first.code, first.replayed) == (3, 0, False)
    assert (again.deleted_keys, again.replayed) == (3, True)
    assert await live(store) == KEYS[3:]
    made = (await log(store, None, before=None, limit=1)).commits[0]
    assert (made.made_by, made.caller, made.door) == ("prune", "manager-1", "http")
    status = await orders.status(store, "n-1")
    assert status is not None
    assert status.order is not None
    assert (status.state, status.order.caller, status.order.door) == ("done", "manager-1", "http")
    assert status.report == first
    assert await orders.status(store, "n-2") is None


async def test_another_caller_meanwhile_gets_the_same_run(store: Store) -> None:
    orders, slow = Orders(), Gate(store)
    first = await begin(orders, slow, order("key-00"), order_id="n-1")
    await slow.waiting.wait()
    status = await orders.status(slow, "n-1")
    assert status is not None
    assert status.state == "running"
    assert await begin(orders, slow, b"key-00\n", order_id="n-1") is first  # the same list, as plain text
    with pytest.raises(CommitIdReused):
        await begin(orders, slow, order("key-01"), order_id="n-1")
    with pytest.raises(CommitIdReused):
        await begin(orders, slow, order("key-00"), order_id="n-1", limit=1)
    slow.gate.set()
    done = await first.report()
    assert done is not None
    assert (done.deleted_keys, orders.running) == (1, 0)


async def test_a_caller_who_leaves_changes_nothing(store: Store) -> None:
    orders, slow = Orders(), Gate(store)
    run = await begin(orders, slow, order("key-00"), order_id="n-1")
    caller = asyncio.create_task(run.report())
    await slow.waiting.wait()
    caller.cancel()
    await asyncio.wait([caller])
    assert await run.report(0.001) is None
    slow.gate.set()
    await run.report()
    assert "key-00" not in await live(store)


async def test_without_an_id_it_is_refused_but_may_be_foreseen(store: Store) -> None:
    orders = Orders()
    with pytest.raises(UsageError, match="no id"):
        await begin(orders, store, order())
    with pytest.raises(UsageError, match="deletes for good"):
        await begin(orders, store, order(), order_id="n-1", grace=0.0)
    with pytest.raises(UsageError, match="together"):
        await begin(orders, store, order(), order_id="n-1", limit=1, keep=1)
    with pytest.raises(InputRejected):
        await begin(orders, store, b"[1]", order_id="n-1")
    foreseen = await orders.foresee(ReadOnly(store), order(), OrderOptions(limit=4))
    assert (foreseen.deleted_keys, foreseen.dry_run) == (4, True)
    assert await live(store) == KEYS
    assert await orders.status(store, "n-1") is None


async def test_no_more_than_so_many_are_carried_out_at_once(store: Store) -> None:
    orders, slow = Orders(at_once=1), Gate(store)
    run = await begin(orders, slow, order("key-00"), order_id="n-1")
    with pytest.raises(StoreBusy):
        await begin(orders, slow, order("key-01"), order_id="n-2")
    assert await begin(orders, slow, order("key-00"), order_id="n-1") is run  # which is no other order
    slow.gate.set()
    await run.report()
    assert (await report(orders, store, order("key-01"), order_id="n-2")).deleted_keys == 1


async def test_the_end_of_the_service_comes_between_two_batches(store: Store) -> None:
    orders, slow = Orders(), Gate(store)
    run = await begin(orders, slow, order(), order_id="n-1", batch=4)
    await slow.waiting.wait()
    stopping = asyncio.create_task(orders.stop(60))
    await asyncio.sleep(0)
    with pytest.raises(Terminated):
        await begin(orders, slow, order("key-00"), order_id="n-2")
    slow.gate.set()
    await stopping
    stopped = await run.report()
    assert stopped is not None
    assert (stopped.deleted_keys, stopped.code, stopped.complete, stopped.final) == (4, 143, False, False)
    assert await live(store) == KEYS[4:]
    status = await orders.status(store, "n-1")
    assert status is not None
    assert status.failure is not None
    assert (status.state, status.failure.code) == ("unfinished", 143)

    done = await report(Orders(), store, order(), order_id="n-1", batch=4)  # another process
    assert (done.deleted_keys, done.resumed, done.complete) == (10, True, True)
    assert [batch.commit_id for batch in done.batches] == ["n-1/0001", "n-1/0002", "n-1/0003"]


async def test_a_batch_that_takes_too_long_is_settled(store: Store) -> None:
    orders, slow = Orders(), Gate(store)
    run = await begin(orders, slow, order(), order_id="n-1")
    await slow.waiting.wait()
    await orders.stop(0.01)
    stopped = await run.report()
    assert stopped is not None
    assert (stopped.deleted_keys, stopped.complete) == (0, False)
    assert await live(store) == KEYS  # and the commit that waited at the gate never arrives
    assert (await report(Orders(), store, order(), order_id="n-1")).deleted_keys == 10


class Dead(StoreWrapper):
    async def commit_matrix_update(self, *arguments: Any, **options: Any) -> Any:
        raise StoreUnavailable("the store is away")


async def test_the_status_says_why_a_run_failed(store: Store) -> None:
    orders = Orders()
    run = await begin(orders, Dead(store), order(), order_id="n-1")
    with pytest.raises(StoreUnavailable):
        await run.report()
    status = await orders.status(store, "n-1")
    assert status is not None
    assert status.failure is not None
    assert (status.state, status.failure.code, status.failure.error) == ("unfinished", 13, "StoreUnavailable")
    assert (await report(Orders(), store, order(), order_id="n-1")).resumed  # by another process
    status = await orders.status(store, "n-1")
    assert status is not None
    assert (status.state, status.failure) == ("done", None)


async def test_two_processes_with_the_same_order(store: Store) -> None:
    """Each has its own `Orders`: the record in the namespace is what keeps them apart."""
    runs = [await begin(Orders(), store, order(), order_id="n-1", batch=1) for _ in range(3)]
    ends = await asyncio.gather(*(run.report() for run in runs), return_exceptions=True)
    for end in ends:
        assert end.code in (0, 16) if isinstance(end, PruneReport) else isinstance(end, LockHeld), end
    assert (await report(Orders(), store, order(), order_id="n-1", batch=1)).deleted_keys == 10
    prunes = [record for record in await store.log() if record.commit_id.startswith("n-1")]
    assert len(prunes) == 10

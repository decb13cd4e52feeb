"""Many tasks at once, and tasks that are cancelled."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from somactl.errors import CommitAborted, VersionConflict
from somactl.store.contract import Receipt, Retention, Store
from somactl.testing.backend import Backend
from somactl.testing.contract_tests import ContractTests
from somactl.testing.values import content_of, envelope, event_versions, put, put_versions, refused, write


@asynccontextmanager
async def opened(backend: Backend, count: int) -> AsyncIterator[list[Store]]:
    """Several store objects, hence several connections, on one database."""
    stores = [backend.open() for _ in range(count)]
    try:
        yield stores
    finally:
        for store in stores:
            await store.close()


class ConcurrencyChapter(ContractTests):
    async def test_of_many_with_one_expectation_one_wins(self, backend: Backend, writer: Store) -> None:
        await put(writer, "a")
        async with opened(backend, 3) as stores:
            for version in range(1, 6):
                attempts = [put(stores[i % 3], "a", seed=i, expected=version) for i in range(12)]
                outcomes = await asyncio.gather(*attempts, return_exceptions=True)
                (won,) = [o for o in outcomes if isinstance(o, Receipt)]
                assert sum(isinstance(o, VersionConflict) for o in outcomes) == 11
                assert won.version == version + 1
                assert (await writer.read("a")).commit_id == won.commit_id

    async def test_no_update_is_lost(self, backend: Backend, writer: Store) -> None:
        """Read, add one, commit expecting what was read, and again on conflict: the sum is exact."""
        sums = {content_of(envelope("sum", number)): number for number in range(25)}
        await put(writer, "sum", seed=0)

        async def add(store: Store, times: int) -> None:
            while times:
                entry = await store.read("sum")
                number = sums[content_of(entry.data)]
                try:
                    await put(store, "sum", seed=number + 1, expected=entry.version)
                except VersionConflict:
                    continue
                times -= 1

        async with opened(backend, 3) as stores:
            await asyncio.gather(*(add(store, 8) for store in stores))
        assert sums[content_of((await writer.read("sum")).data)] == 24

    async def test_versions_have_no_gaps_and_no_repeats(self, backend: Backend, writer: Store) -> None:
        async with opened(backend, 4) as stores:
            commits = [put(stores[i % 4], f"k{i % 7}", seed=i) for i in range(60)]
            receipts = await asyncio.gather(*commits)
        assert sorted(receipt.version for receipt in receipts) == list(range(1, 61))
        log = await writer.log(limit=100)
        assert [record.receipt.version for record in log if record.receipt] == list(range(60, 0, -1))
        assert await event_versions(writer) == list(range(1, 61))

    async def test_one_id_sent_often_at_once_is_one_commit(self, backend: Backend, writer: Store) -> None:
        async with opened(backend, 4) as stores:
            receipts = await asyncio.gather(*(put(s, "a", commit_id="once") for s in stores * 3))
        assert [r.replayed for r in receipts].count(False) == 1
        assert {r.version for r in receipts} == {1}
        assert (await writer.head()).version == 1

    async def test_readers_see_whole_commits(self, backend: Backend, writer: Store) -> None:
        await put(writer, "a", "b")
        done = asyncio.Event()

        async def write_on() -> None:
            for seed in range(1, 30):
                await put(writer, "a", "b", seed=seed)
            done.set()

        async def watch(store: Store) -> None:
            last = 0
            while not done.is_set():
                snapshot = await store.read_many(["a", "b"])
                versions = {entry.version for entry in snapshot.entries.values()}
                assert len(versions) == 1
                assert last <= snapshot.version
                assert versions == {snapshot.version}
                last = snapshot.version

        async with opened(backend, 2) as stores:
            await asyncio.gather(write_on(), *(watch(store) for store in stores))

    async def test_a_cancelled_commit_is_whole_or_absent(self, backend: Backend, writer: Store) -> None:
        dice = random.Random(7)
        committed = 0
        for round_ in range(40):
            keys = (f"a{round_}", f"b{round_}")
            task = asyncio.create_task(put(writer, *keys, commit_id=f"round-{round_}"))
            for _ in range(dice.randrange(6)):
                await asyncio.sleep(dice.choice([0, 0, 0.0005]))
            task.cancel()
            outcome = (await asyncio.gather(task, return_exceptions=True))[0]
            status = await writer.commit_status(f"round-{round_}", resolve=True)
            snapshot = await writer.read_many(keys)
            if isinstance(outcome, Receipt):
                assert status.state == "committed"
            assert len(snapshot.entries) == (2 if status.state == "committed" else 0)
            committed += status.state == "committed"
            if status.state == "aborted":
                await refused(CommitAborted, put(writer, *keys, commit_id=f"round-{round_}"))
        head = await writer.head()
        assert head.version == committed
        assert [r.receipt.version for r in await writer.log(limit=100) if r.receipt] == list(
            range(committed, 0, -1)
        )
        assert (await put(writer, "after")).version == committed + 1

    async def test_cancelled_reads_leave_the_store_usable(self, writer: Store) -> None:
        await write(writer, {"a": envelope("a", n=300)})
        for pause in (0, 0, 0.0005, 0.001):
            tasks = [asyncio.create_task(writer.read("a")) for _ in range(5)]
            await asyncio.sleep(pause)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert bytes((await writer.read("a")).data) == envelope("a", n=300)

    async def test_close_finishes_a_cancelled_commit(self, backend: Backend, writer: Store) -> None:
        store = backend.open()
        await store.head()
        task = asyncio.create_task(put(store, "a", "b", commit_id="last"))
        await asyncio.sleep(0.002)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()
        state = (await writer.commit_status("last")).state
        assert len(await backend.stored("default")) == (2 if state == "committed" else 0)
        await asyncio.sleep(0.05)
        assert (await writer.commit_status("last")).state == state

    async def test_a_commit_that_races_its_own_resolution_has_one_outcome(
        self, backend: Backend, writer: Store
    ) -> None:
        async with opened(backend, 2) as (sender, resolver):
            for number in range(20):
                commit_id = f"race-{number}"
                sent, status = await asyncio.gather(
                    put(sender, f"k{number}", commit_id=commit_id),
                    resolver.commit_status(commit_id, resolve=True),
                    return_exceptions=True,
                )
                assert not isinstance(status, BaseException)
                assert status.state == ("committed" if isinstance(sent, Receipt) else "aborted")
                assert isinstance(sent, Receipt | CommitAborted)
                assert (await writer.commit_status(commit_id)).state == status.state

    async def test_compacting_while_others_write_and_read(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=Retention(1, 0.0, 0.0))
        async with opened(backend, 2) as (other, compactor):

            async def churn() -> None:
                await put_versions(other, 25, "a", "b")

            async def sweep() -> None:
                for _ in range(25):
                    await compactor.compact(limit=3)

            async def check() -> None:
                for _ in range(25):
                    snapshot = await writer.read_many(["a", "b"])
                    assert len(snapshot.absent) in (0, 2)
                    assert not snapshot.corrupt

            await asyncio.gather(churn(), sweep(), check())
        assert (await writer.read("a")).version == 25

"""events, publishing, mark_published, set_publishing: what each commit tells, and what is kept of that."""

from __future__ import annotations

import asyncio

import pytest

from somactl.errors import VersionConflict
from somactl.store.contract import Event, EventPage, Retention, Store, VerdictSummary
from somactl.testing.backend import Backend
from somactl.testing.contract_tests import ContractTests
from somactl.testing.values import (
    compact_fully,
    content_of,
    delete,
    envelope,
    event_versions,
    fresh_id,
    put,
    refused,
    write,
)

SHORT = Retention(versions=3, seconds=1000.0, record_seconds=5000.0)
LONG_AGO = 6000.0


async def commits(store: Store, number: int) -> None:
    for seed in range(number):
        await put(store, "a", seed=seed)


class EventChapter(ContractTests):
    async def test_every_commit_has_one_event_that_tells_of_it(self, writer: Store, store: Store) -> None:
        data = envelope("a")
        receipt = await write(writer, {"a": data, "b": None}, commit_id="first")
        await write(writer, {"a": data, "b": None}, commit_id="first")
        await refused(VersionConflict, put(writer, "a", expected=0))
        await writer.commit_status("given-up", resolve=True)
        await delete(writer, "never")
        page = await store.events()
        assert page.events[0] == Event(
            version=1,
            incarnation=receipt.incarnation,
            commit_id="first",
            recorded_at=receipt.committed_at,
            keys={"a": content_of(data), "b": None},
            verdict=None,
        )
        assert [event.version for event in page.events] == [1, 2]
        assert (page.incarnation, page.head, page.after, page.gone) == (receipt.incarnation, 2, 2, None)

    async def test_an_event_tells_the_worst_of_its_verdicts(self, writer: Store) -> None:
        rhos = [envelope(key, kind="rho", seed=seed) for seed, key in enumerate("abc")]
        matrix = envelope("m", seed=9)
        numbers = [{"trace_error": 1e-12, "lambda_min_lower": -1e-9}, {"trace_error": 3e-12}, {}]
        verdicts = {
            content_of(data): {"status": "valid", **each} for data, each in zip(rhos, numbers, strict=True)
        }
        verdicts[content_of(matrix)] = {"status": "violated", "trace_error": 5.0}
        await write(writer, {**dict(zip("abc", rhos, strict=True)), "m": matrix}, verdicts=verdicts)
        await write(writer, {"c": rhos[2]}, verdicts=verdicts)
        await write(writer, {"m": matrix}, verdicts=verdicts)
        assert [event.verdict for event in (await writer.events()).events] == [
            VerdictSummary("valid", 3e-12, -1e-9),
            VerdictSummary("valid"),
            None,
        ]

    async def test_pages_follow_each_other(self, writer: Store) -> None:
        head = await writer.head()
        assert await writer.events() == EventPage(head.incarnation, 0, 0)
        await commits(writer, 8)
        assert await event_versions(writer) == list(range(1, 9))
        page = await writer.events(5, 2)
        assert ([event.version for event in page.events], page.after, page.head) == ([6, 7], 7, 8)
        assert (await writer.events(8)).events == ()

    @pytest.mark.parametrize("version", [2, 1 << 40, 1 << 70])
    async def test_a_version_that_was_never_reached_is_refused(self, writer: Store, version: int) -> None:
        await put(writer, "a")
        for call in (writer.events(version), writer.mark_published(version)):
            await refused(VersionConflict, call)
        assert (await writer.publishing()).keep is None

    async def test_the_mark_only_goes_forward(self, backend: Backend, writer: Store) -> None:
        await commits(writer, 5)
        assert (await writer.publishing()).backlog == 0
        for version, published in ((3, 3), (3, 3), (1, 3), (0, 3), (5, 5)):
            told = await writer.mark_published(version)
            assert (told.published, told.backlog, told.version) == (published, 5 - published, 5)
        other = backend.open()
        assert await other.publishing() == told
        await other.close()

    async def test_a_mark_may_name_the_incarnation_that_it_is_about(self, writer: Store) -> None:
        await put(writer, "a")
        before = (await writer.head()).incarnation
        await writer.init(new_incarnation=True)
        await put(writer, "a")
        await refused(VersionConflict, writer.mark_published(1, incarnation=before))
        now = (await writer.head()).incarnation
        assert (await writer.mark_published(1, incarnation=now)).published == 1
        assert [event.incarnation for event in (await writer.events()).events] == [before, now]

    async def test_the_first_mark_turns_publishing_on_and_no_later_one(self, writer: Store) -> None:
        await commits(writer, 3)
        told = await writer.mark_published(1)
        assert told.keep is not None
        assert (await writer.set_publishing(None)).keep is None
        told = await writer.mark_published(2)
        assert (told.published, told.keep, told.backlog) == (2, None, 0)
        told = await writer.set_publishing(7)
        assert (told.published, told.keep, told.backlog) == (2, 7, 1)

    async def test_where_publishing_is_off_age_alone_takes_events(
        self, backend: Backend, writer: Store
    ) -> None:
        await writer.init(retention=SHORT)
        await commits(writer, 3)
        await writer.set_publishing(10)
        await writer.set_publishing(None)
        await backend.age("default", LONG_AGO)
        await put(writer, "b")
        step = await writer.compact()
        assert (step.events, step.dropped) == (3, 0)
        page = await writer.events()
        assert (page.gone, [event.version for event in page.events]) == ((1, 3), [4])
        assert (await writer.events(3)).gone is None
        told = await writer.set_publishing(10)
        assert (told.published, told.backlog, told.dropped) == (0, 1, 0)

    async def test_unpublished_events_outlive_their_time(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=SHORT)
        await commits(writer, 6)
        await writer.mark_published(2)
        await backend.age("default", LONG_AGO)
        plan = await writer.compact(dry_run=True)
        assert (plan.events, plan.dropped) == (2, 0)
        assert (await compact_fully(writer, 1))[3] == 2
        assert await event_versions(writer) == [3, 4, 5, 6]
        assert (await writer.log())[-1].receipt is not None
        await writer.mark_published(6)
        assert (await compact_fully(writer))[3] == 4
        page = await writer.events(2)
        assert (page.events, page.gone, page.after) == ((), (3, 6), 6)
        assert (await writer.publishing()).dropped == 0

    @pytest.mark.parametrize("limit", [1, 500])
    async def test_no_more_than_the_limit_are_kept_and_it_is_said(
        self, backend: Backend, writer: Store, limit: int
    ) -> None:
        await writer.init(retention=SHORT)
        await commits(writer, 6)
        await writer.mark_published(1)
        await writer.set_publishing(2)
        assert (await writer.compact()).events == 0  # they are young
        await backend.age("default", LONG_AGO)
        plan = await writer.compact(dry_run=True)
        assert (plan.events, plan.dropped) == (4, 3)
        dropped = 0
        while True:
            step = await writer.compact(limit=limit)
            dropped += step.dropped
            if not step.more:
                break
        told = await writer.publishing()
        assert (dropped, told.dropped, told.backlog, told.published) == (3, 3, 2, 1)
        assert (await writer.events(1)).gone == (2, 4)
        assert (await writer.set_publishing(2)).dropped == 0  # taken note of

    async def test_marking_while_others_compact(self, backend: Backend, writer: Store) -> None:
        """Whatever the order, nothing above the mark is lost once publishing is on."""
        await writer.init(retention=Retention(1, 0.0, 0.0))
        await commits(writer, 20)
        marker, compactor = backend.open(), backend.open()

        async def mark() -> None:
            for version in range(1, 11):
                await marker.mark_published(version)

        async def sweep() -> None:
            for _ in range(30):
                await compactor.compact(limit=1)

        await writer.mark_published(0)
        await asyncio.gather(mark(), sweep(), commits(writer, 5))
        await compact_fully(compactor)
        await asyncio.gather(marker.close(), compactor.close())
        assert await event_versions(writer) == list(range(11, 26))
        assert (await writer.publishing()).backlog == 15

    async def test_an_event_stands_and_falls_with_its_commit(self, backend: Backend, writer: Store) -> None:
        """However a commit is cut off."""
        ids = [fresh_id() for _ in range(30)]
        for number, commit_id in enumerate(ids):
            task = asyncio.create_task(put(writer, "a", seed=number, commit_id=commit_id))
            await asyncio.sleep(0.0003 * (number % 5))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        settled = {each: (await writer.commit_status(each, resolve=True)).state for each in ids}
        page = await writer.events()
        assert {event.commit_id for event in page.events} == {
            each for each, state in settled.items() if state == "committed"
        }
        assert [event.version for event in page.events] == list(range(1, page.head + 1))

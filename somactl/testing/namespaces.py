"""init, head, namespaces, close."""

from __future__ import annotations

import asyncio

import pytest

from somactl.errors import NamespaceNotFound, VersionConflict
from somactl.store.contract import CommitMetadata, Expect, Retention, Store
from somactl.testing.backend import Backend
from somactl.testing.contract_tests import ContractTests
from somactl.testing.notes import all_notes
from somactl.testing.values import delete, envelope, fresh_id, listed, put, refused


def default_retention(backend: Backend) -> Retention:
    """A backend written before there was this attribute has the default of most stores."""
    return getattr(backend, "default_retention", Retention())


class NamespaceChapter(ContractTests):
    async def test_init_creates_the_namespace_at_version_0(self, backend: Backend) -> None:
        store = backend.open()
        head = await store.init()
        assert (head.namespace, head.version) == ("default", 0)
        assert head.retention == default_retention(backend)
        assert head == await store.head()
        await store.close()

    async def test_init_again_keeps_incarnation_values_and_retention(self, writer: Store) -> None:
        await writer.init(retention=Retention(3, 60.0, 600.0))
        await put(writer, "a")
        before = await writer.head()
        assert await writer.init() == before
        assert before.retention == Retention(3, 60.0, 600.0)
        assert (await writer.read("a")).version == 1

    async def test_init_replaces_the_retention_it_is_given(self, writer: Store) -> None:
        await writer.init(retention=Retention(3, 60.0, 600.0))
        head = await writer.init(retention=Retention(4, 61.0, 601.0))
        assert head.retention == Retention(4, 61.0, 601.0) == (await writer.head()).retention

    async def test_a_new_incarnation_keeps_values_and_version(self, backend: Backend, writer: Store) -> None:
        first = await put(writer, "a", commit_id="before")
        await put(writer, "a", seed=1)
        before = await writer.head()
        after = await writer.init(new_incarnation=True)
        assert after == await writer.head()
        assert after.incarnation != before.incarnation
        assert (after.version, after.created_at) == (before.version, before.created_at)
        entry = await writer.read("a")
        assert (entry.version, entry.incarnation) == (2, after.incarnation)
        assert (await writer.read("a", 1)).version == 1
        with pytest.raises(VersionConflict):
            await put(writer, "a", expected=Expect(version=2, incarnation=before.incarnation))
        receipt = await put(writer, "a", seed=2, expected=Expect(version=2, incarnation=after.incarnation))
        assert (receipt.version, receipt.incarnation) == (3, after.incarnation)
        replay = await put(writer, "a", commit_id="before")
        assert (replay.replayed, replay.incarnation) == (True, first.incarnation)

    async def test_a_new_incarnation_of_what_is_not_there_creates_nothing(self, backend: Backend) -> None:
        """First where there is no database at all, then where there is one without that namespace."""
        store, other = backend.open(), backend.open("other")
        for _ in range(2):
            await refused(NamespaceNotFound, store.init(new_incarnation=True), store.head())
            assert {summary.head.namespace for summary in await store.namespaces()} <= {"other"}
            await other.init()
        await store.close()
        await other.close()

    async def test_a_diagnosis_finds_and_changes_nothing(self, backend: Backend, writer: Store) -> None:
        await put(writer, "a")
        before = await writer.head()
        findings = await writer.diagnose()
        assert {"reachable", "version", "retention"} <= {finding.check for finding in findings}
        assert {f.check for f in findings if f.status == "problem"} == getattr(backend, "problems", set())
        assert all(f.advice for f in findings if f.status in ("warning", "problem"))
        assert (await writer.head(), writer.degradations, writer.degraded_since_opened) == (before, (), ())

    async def test_init_by_many_at_once_makes_one_namespace(self, backend: Backend) -> None:
        stores = [backend.open() for _ in range(6)]
        heads = await asyncio.gather(*(store.init() for store in stores))
        assert len({head.incarnation for head in heads}) == 1
        for store in stores:
            await store.close()

    async def test_namespaces_do_not_see_each_other(self, backend: Backend) -> None:
        stores = [backend.open(name) for name in ("b", "a")]
        heads = [await store.init() for store in stores]
        assert heads[0].incarnation != heads[1].incarnation
        await put(stores[0], "x", "y")
        await delete(stores[0], "y")
        await put(stores[1], "x")
        first, second = await stores[0].namespaces()
        assert (first.head, second.head) == (await stores[1].head(), await stores[0].head())
        assert [(s.keys, s.tombstones) for s in (first, second)] == [(1, 0), (1, 1)]
        for summary, name in ((first, "a"), (second, "b")):
            assert summary.stored_bytes == len(envelope("x", namespace=name))
        assert [s.key for s in await listed(stores[1].scan())] == ["x"]
        for store in stores:
            await store.close()

    async def test_a_summary_is_a_line_of_the_list(self, backend: Backend, writer: Store) -> None:
        other = backend.open("other")
        await other.init()
        await put(other, "x")
        await put(writer, "a", "b", "c")
        await put(writer, "a", seed=1)
        await delete(writer, "b")
        summary = await writer.summary()
        assert summary in await writer.namespaces()
        assert (summary.head, summary.keys, summary.tombstones) == (await writer.head(), 2, 1)
        assert summary.stored_bytes == len(envelope("a", 1)) + len(envelope("c"))
        await other.close()

    async def test_the_clock_is_the_one_that_dates_commits(self, writer: Store) -> None:
        before = await writer.clock()
        receipt = await put(writer, "a")
        after = await writer.clock()
        assert before - 0.002 <= receipt.committed_at <= after + 0.002

    async def test_an_unknown_namespace_is_not_found(self, backend: Backend, writer: Store) -> None:
        await put(writer, "a")
        store = backend.open("elsewhere")
        calls = (
            store.head(),
            store.read("a"),
            store.read("a", 1),
            store.read_many(["a"]),
            store.stat_many(["a"]),
            listed(store.scan()),
            store.history("a"),
            store.log(),
            store.commit_status("x"),
            store.commit_status("x", resolve=True),
            store.compact(),
            store.compact(dry_run=True),
            store.compact(past_grace=True),
            store.summary(),
            store.clock(),
            store.read_notes(["n"]),
            all_notes(store.scan_notes()),
        )
        await refused(NamespaceNotFound, *calls)
        assert [summary.head.namespace for summary in await store.namespaces()] == ["default"]
        await store.close()

    async def test_a_database_without_a_namespace(self, backend: Backend) -> None:
        store = backend.open()
        await refused(NamespaceNotFound, store.head())
        assert await store.namespaces() == []
        await store.close()

    async def test_the_first_commit_creates_the_namespace_where_promised(self, backend: Backend) -> None:
        store = backend.open()
        update = {"a": envelope("a")}
        if backend.implicit_init:
            receipt = await store.commit_matrix_update(update, CommitMetadata(), commit_id=fresh_id())
            assert receipt.version == 1
            assert (await store.head()).incarnation == receipt.incarnation
        else:
            with pytest.raises(NamespaceNotFound):
                await store.commit_matrix_update(update, CommitMetadata(), commit_id=fresh_id())
        await store.close()

    async def test_the_first_note_creates_it_where_the_first_commit_does(self, backend: Backend) -> None:
        store = backend.open()
        if backend.implicit_init:
            await refused(VersionConflict, store.write_notes({"n": b"x"}, {"n": 1}))
            assert await store.namespaces() == []
            assert await store.write_notes({"n": b"x"}, {"n": 0}) == {"n": 1}
            assert (await store.head()).version == 0
        else:
            await refused(NamespaceNotFound, store.write_notes({"n": b"x"}))
        await store.close()

    async def test_close_twice_is_harmless(self, backend: Backend, writer: Store) -> None:
        receipt = await put(writer, "a")
        await writer.close()
        await writer.close()
        store = backend.open()
        assert (await store.read("a")).version == receipt.version
        await store.close()

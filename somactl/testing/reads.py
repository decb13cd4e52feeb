"""read, read_many, scan, history: what an operator sees."""

from __future__ import annotations

import pytest

from somactl.errors import KeyNotFound
from somactl.store.contract import Store
from somactl.testing.contract_tests import ContractTests
from somactl.testing.values import VALID, content_of, delete, envelope, listed, proof, put, refused, write

# In byte order of their UTF-8, which is not the order of most locales, nor that of UTF-16.
ODD_KEYS = [
    " leading space",
    "%",
    "..",
    "A",
    "Z",
    "[a]",
    "_",
    "a",
    "a b",
    "a*",
    "a?",
    "a\\b",
    "acme:(9.0, 14.0, 43.0):data",
    "e\u0301",
    "z",
    "\u00e9",
    "\uff5e",
    "\U0001f9e0",
]


class ReadChapter(ContractTests):
    async def test_a_value_comes_back_byte_for_byte(self, store: Store, writer: Store) -> None:
        data = envelope("a", kind="rho")
        receipt = await write(writer, {"a": data}, verdicts=proof(data), commit_id="the-id")
        entry = await store.read("a")
        assert bytes(entry.data) == data
        assert (entry.key, entry.version, entry.commit_id) == ("a", 1, "the-id")
        assert (entry.incarnation, entry.committed_at) == (receipt.incarnation, receipt.committed_at)
        assert (entry.verdict, entry.degraded) == (VALID, False)
        assert entry.served_by

    @pytest.mark.parametrize("n", [1, 90, 91, 256, 363])
    async def test_values_of_many_sizes(self, store: Store, writer: Store, n: int) -> None:
        data = envelope("a", n=n)
        await write(writer, {"a": data})
        assert bytes((await store.read("a")).data) == data

    async def test_what_was_read_cannot_be_changed(self, store: Store, writer: Store) -> None:
        await write(writer, {"small": envelope("small"), "large": envelope("large", n=200)})
        for key in ("small", "large"):
            with memoryview((await store.read(key)).data) as view:
                assert view.readonly

    async def test_keys_that_are_not_there(self, store: Store, writer: Store) -> None:
        await put(writer, "a")
        await delete(writer, "a")
        for key in ("a", "A", "never"):
            with pytest.raises(KeyNotFound, match=key):
                await store.read(key)

    async def test_reads_as_of_every_version(self, store: Store, writer: Store) -> None:
        await put(writer, "other")
        await put(writer, "a", seed=1)
        await put(writer, "a", seed=2)
        await delete(writer, "a")
        await put(writer, "other")
        await put(writer, "a", seed=3)
        expected = {0: None, 1: None, 2: 1, 3: 2, 4: None, 5: None, 6: 3, 7: None}
        for version, seed in expected.items():
            if seed is None:
                await refused(KeyNotFound, store.read("a", version))
            else:
                assert bytes((await store.read("a", version)).data) == envelope("a", seed)

    async def test_an_entry_says_when_it_was_written(self, store: Store, writer: Store) -> None:
        await put(writer, "a")
        await put(writer, "b")
        assert (await store.read("a", 2)).version == 1

    async def test_read_many_is_one_version(self, store: Store, writer: Store) -> None:
        await put(writer, "a", "b", "c")
        receipt = await delete(writer, "b")
        snapshot = await store.read_many(["c", "b", "a", "never", "c", "never"])
        assert (snapshot.incarnation, snapshot.version) == (receipt.incarnation, 2)
        assert list(snapshot.entries) == ["c", "a"]
        assert (snapshot.absent, dict(snapshot.corrupt)) == (("b", "never"), {})
        assert bytes(snapshot.entries["a"].data) == envelope("a")
        assert (await store.read_many([])).version == 2

    async def test_stat_many_agrees_with_the_listing(self, store: Store, writer: Store) -> None:
        await put(writer, "a", "b", "c")
        receipt = await delete(writer, "b")
        stats = await store.stat_many(["c", "b", "a", "never", "c", "never"])
        assert (stats.incarnation, stats.version) == (receipt.incarnation, 2)
        assert (list(stats.stats), stats.absent) == (["c", "a"], ("b", "never"))
        assert sorted(stats.stats.values(), key=lambda s: s.key) == await listed(store.scan())
        assert (await store.stat_many([])).version == 2

    async def test_odd_keys_are_ordinary_keys_in_byte_order(self, store: Store, writer: Store) -> None:
        await put(writer, *ODD_KEYS[::-1])
        assert [s.key for s in await listed(store.scan())] == ODD_KEYS
        snapshot = await store.read_many(ODD_KEYS)
        assert list(snapshot.entries) == ODD_KEYS
        assert all(bytes(entry.data) == envelope(key) for key, entry in snapshot.entries.items())

    async def test_a_key_of_1024_bytes(self, store: Store, writer: Store) -> None:
        key = "\u00e9" * 512
        await put(writer, key)
        assert [s.key for s in await listed(store.scan())] == [key]
        assert (await store.read(key)).key == key

    @pytest.mark.parametrize(
        ("pattern", "keys"),
        [
            ("*", ODD_KEYS),
            ("a*", [k for k in ODD_KEYS if k.startswith("a")]),
            ("?", [k for k in ODD_KEYS if len(k) == 1]),
            ("a\\*", ["a*"]),
            ("a\\?", ["a?"]),
            ("a\\\\b", ["a\\b"]),
            ("[a]", ["[a]"]),
            ("*43.0*", ["acme:(9.0, 14.0, 43.0):data"]),
            ("\u00e9", ["\u00e9"]),
            ("%", ["%"]),
            ("nothing*", []),
            ("", []),
        ],
    )
    async def test_patterns(self, store: Store, writer: Store, pattern: str, keys: list[str]) -> None:
        await put(writer, *ODD_KEYS)
        assert [s.key for s in await listed(store.scan(pattern))] == keys

    async def test_a_scan_starts_after_any_key(self, store: Store, writer: Store) -> None:
        await put(writer, "a", "c", "e")
        for after, keys in (("a", ["c", "e"]), ("b", ["c", "e"]), ("e", []), ("", ["a", "c", "e"])):
            assert [s.key for s in await listed(store.scan(after=after))] == keys
        assert [s.key for s in await listed(store.scan("c*", "a"))] == ["c"]

    async def test_pages_end_by_count_and_by_bytes(self, store: Store, writer: Store) -> None:
        keys = [f"k{i}" for i in range(7)]
        await put(writer, *keys)
        size = len(envelope("k0"))
        for arguments, longest in (
            ({"page_keys": 3}, 3),
            ({"page_bytes": 2 * size}, 2),
            ({"page_bytes": 2 * size - 1}, 1),
            ({"page_bytes": 1}, 1),
        ):
            pages = [page async for page in store.scan(**arguments)]  # type: ignore[arg-type]
            assert all(1 <= len(page) <= longest for page in pages)
            assert max(len(page) for page in pages) == longest
            assert [s.key for page in pages for s in page] == keys

    async def test_keys_present_during_a_whole_scan_appear_once(self, store: Store, writer: Store) -> None:
        keys = [f"k{i:02}" for i in range(20)]
        await put(writer, *keys)
        seen: list[str] = []
        async for page in store.scan(page_keys=3):
            seen += [s.key for s in page]
            await put(writer, *keys[::2], seed=len(seen))
            await put(writer, f"k{len(seen):02}-new")
            await delete(writer, f"k{len(seen):02}-new")
        assert [key for key in seen if key in keys] == keys

    async def test_a_stat_describes_the_live_value(self, store: Store, writer: Store) -> None:
        await put(writer, "a")
        data = envelope("a", kind="rho", layout="hermitian", n=5)
        receipt = await write(writer, {"a": data}, verdicts=proof(data))
        (stat,) = await listed(store.scan())
        assert (stat.key, stat.version, stat.commit_id) == ("a", 2, receipt.commit_id)
        assert (stat.size, stat.content) == (len(data), content_of(data))
        assert (stat.kind, stat.dtype, stat.shape, stat.layout) == ("rho", "float64", (5, 5), "hermitian")
        assert (stat.committed_at, stat.deleted, stat.recoverable_until) == (
            receipt.committed_at,
            False,
            None,
        )

    async def test_tombstones_describe_what_they_hide(self, store: Store, writer: Store) -> None:
        await put(writer, "a", "b", "c")
        receipt = await delete(writer, "a", "c")
        assert [s.key for s in await listed(store.scan())] == ["b"]
        first, second = await listed(store.scan(deleted=True))
        assert (first.key, second.key) == ("a", "c")
        assert (first.version, first.commit_id) == (2, receipt.commit_id)
        assert (first.size, first.content) == (len(envelope("a")), content_of(envelope("a")))
        assert (first.kind, first.shape, first.deleted) == ("matrix", (3, 3), True)
        seconds = (await store.head()).retention.seconds
        assert first.recoverable_until == pytest.approx(receipt.committed_at + seconds, abs=1e-3)
        assert [s.key for s in await listed(store.scan("c", deleted=True))] == ["c"]
        await put(writer, "a", seed=1)
        assert [s.key for s in await listed(store.scan(deleted=True))] == ["c"]

    async def test_history_is_newest_first(self, store: Store, writer: Store) -> None:
        await put(writer, "a", commit_id="one")
        await put(writer, "b")
        await delete(writer, "a")
        await put(writer, "a", seed=1)
        history = await store.history("a")
        assert [(r.version, r.content) for r in history] == [
            (4, content_of(envelope("a", 1))),
            (3, None),
            (1, content_of(envelope("a"))),
        ]
        first = history[-1]
        assert (first.key, first.commit_id, first.kind, first.compacted) == ("a", "one", "matrix", False)
        assert (first.size, first.verdict) == (len(envelope("a")), None)
        assert (history[1].size, history[1].kind) == (0, None)
        await refused(KeyNotFound, store.history("never"))

    async def test_head_follows_every_commit(self, store: Store, writer: Store) -> None:
        for version in (1, 2, 3):
            receipt = await put(writer, "a", seed=version)
            head = await store.head()
            assert (head.version, head.incarnation) == (version, receipt.incarnation)

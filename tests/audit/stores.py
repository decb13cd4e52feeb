"""A store in memory, of which an audit uses so much: it trips where a test tells it to, and its bytes rot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import numpy as np

from somactl import serialize_matrix
from somactl.core.framing import peek, verify
from somactl.errors import CorruptValue, EnvelopeError, NamespaceNotFound
from somactl.store.contract import Entry, Head, NamespaceSummary, Note, Retention, Snapshot, Stat, Stats
from somactl.store.notes import refuse_note_conflicts
from somactl.testing.values import envelope


def good(key: str, seed: int = 0) -> bytes:
    return envelope(key, seed, kind="rho", n=2)


def bad(key: str, seed: int = 0) -> bytes:
    """One that is not positive semi-definite."""
    wrong = 0.1 + seed / 1000
    matrix = np.diag([1 + wrong, -wrong])
    return serialize_matrix(matrix, key=key, namespace="default", kind="rho", timestamp=0.0)


def rotten(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


class MemoryStore:
    """One namespace. `page` keys make a page at most; `trip` is called before each call with its name, and
    before and after a write of notes with `before notes` and `after notes`; `reads` counts per key.
    """

    name = "memory"
    namespace = "default"

    def __init__(self, page: int = 4) -> None:
        self.page = page
        self.values: dict[str, tuple[int, bytes, Stat]] = {}
        self.notes: dict[str, tuple[int, bytes]] = {}
        self.version = 0
        self.incarnation = "one"
        self.now = 1_000_000.0
        self.reads: dict[str, int] = {}
        self.trip: Callable[[str], None] = lambda what: None
        self.pause: asyncio.Event | None = None

    def put(self, key: str, data: bytes) -> None:
        self.version += 1
        header = peek(data)
        stat = Stat(
            key,
            self.version,
            f"c{self.version}",
            self.now,
            len(data),
            header.content,
            header.kind,
            "",
            (),
            "",
        )
        self.values[key] = self.version, data, stat

    def delete(self, key: str) -> None:
        self.version += 1
        del self.values[key]

    def rot(self, key: str) -> None:
        version, data, stat = self.values[key]
        self.values[key] = version, rotten(data), stat

    async def head(self) -> Head:
        self.trip("head")
        return Head("default", self.incarnation, self.version, 0.0, Retention())

    async def clock(self) -> float:
        self.trip("clock")
        return self.now

    async def summary(self) -> NamespaceSummary:
        return NamespaceSummary(await self.head(), len(self.values), 0, 0)

    async def scan(
        self, match: str | None = None, after: str | None = None, *, page_keys: int, **options: Any
    ) -> AsyncIterator[list[Stat]]:
        while True:
            self.trip("scan")
            rest = sorted(key for key in self.values if after is None or key > after)
            if not rest:
                return
            keys = rest[: min(self.page, page_keys)]
            yield [self.values[key][2] for key in keys]
            after = keys[-1]

    async def stat_many(self, keys: Sequence[str]) -> Stats:
        self.trip("stat")
        there = {key: self.values[key][2] for key in keys if key in self.values}
        absent = tuple(key for key in keys if key not in there)
        return Stats(self.incarnation, self.version, there, absent)

    async def read_many(self, keys: Sequence[str]) -> Snapshot:
        if self.pause is not None:
            await self.pause.wait()
        self.trip("read")
        entries, corrupt = {}, {}
        for key in keys:
            self.reads[key] = self.reads.get(key, 0) + 1
            if key not in self.values:
                continue
            version, data, stat = self.values[key]
            try:
                verify(data, namespace="default", key=key)
            except EnvelopeError as exc:
                corrupt[key] = CorruptValue(exc.message, key=key)
                continue
            entries[key] = Entry(
                key, version, self.incarnation, stat.commit_id, self.now, data, None, self.name
            )
        absent = tuple(key for key in keys if key not in self.values)
        return Snapshot(self.incarnation, self.version, entries, absent, corrupt)

    async def read_notes(self, names: Sequence[str]) -> dict[str, Note]:
        self.trip("read notes")
        return {name: self._note(name, self.notes[name][1]) for name in names if name in self.notes}

    def _note(self, name: str, data: bytes | None) -> Note:
        return Note(name, self.notes[name][0], len(self.notes[name][1]), self.now, data)

    async def write_notes(
        self, changes: Mapping[str, bytes | None], expected: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        self.trip("before notes")
        refuse_note_conflicts(expected or {}, {name: version for name, (version, _) in self.notes.items()})
        for name, data in changes.items():
            version, _ = self.notes.pop(name, (0, b""))
            if data is not None:
                self.notes[name] = version + 1, data
        self.trip("after notes")
        return {name: self.notes.get(name, (0,))[0] for name in changes}

    async def scan_notes(self, prefix: str = "", after: str | None = None) -> AsyncIterator[list[Note]]:
        self.trip("scan notes")
        if names := sorted(name for name in self.notes if name.startswith(prefix)):
            yield [self._note(name, None) for name in names]

    def drop(self) -> None:
        """As if the namespace had been dropped: whatever is asked, it is not there."""

        def gone(what: str) -> None:
            raise NamespaceNotFound("namespace 'default' does not exist")

        self.trip = gone

"""Enforcing the retention: candidates are looked for by plain reads, and removed by scripts, a few at a time.

Between the two another client may commit or compact. Every script looks again at what it removes, and
leaves alone what is no longer what it was. Bytes are first renamed out of the way and freed afterwards,
about 30 MB at a time: freeing takes the server some 70 microseconds a megabyte, and nothing else is done
meanwhile.

What a commit has deleted is listed in its `delete_batch`, some hundred keys in a list. Such a list is gone
through from front to end, and taken away when none of its keys is deleted by that commit any more; since that
never comes back, no two clients can disagree about it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from somactl.core.portions import batched, in_portions
from somactl.store.contract import Compaction
from somactl.store.redis import layout
from somactl.store.redis.events import PUBLISHING_FIELDS
from somactl.store.redis.layout import HistoryEntry, NamespaceHead, seconds
from somactl.store.redis.pool import Argument, Script
from somactl.store.redis.reading import Reader

PRUNE = Script("prune")
FORGET = Script("forget")
EXPIRE = Script("expire")

T = TypeVar("T")
_PAGE = 500
_HISTORIES = 50
_LISTS = 20
_AT_ONCE = 100
"""Removals in one script: about a millisecond."""
_FREED_BYTES = 32 << 20
_TRASH_MS = 60 * 60 * 1000
"""When the bytes expire, should no command have freed them."""


class Value(msgspec.Struct, frozen=True):
    """A superseded value that has bytes.

    Either `token` says where, or `tomb` is the version of the tombstone that hides it in its place.
    """

    key: str
    version: int
    token: str
    tomb: int
    size: int
    ended_at: float


class Entry(msgspec.Struct, frozen=True):
    """A superseded entry without bytes."""

    key: str
    version: int


class Tombstone(msgspec.Struct, frozen=True):
    """The newest entry of a deleted key."""

    key: str
    version: int


class Listed(msgspec.Struct, frozen=True):
    """One list of deleted keys: of which grave, what it says, and which of them are still deleted by it."""

    delete_batch: bytes
    text: bytes
    version: int
    index: str
    left: frozenset[str]


class Record(msgspec.Struct, frozen=True):
    """The record of a commit, 0 for one of an id that was given up; `dropped`: its event is not published."""

    commit_id: str
    version: int
    dropped: bool


class Candidates(msgspec.Struct):
    """What is to be removed, in the order in which it must go: values, entries, tombstones."""

    records_until: float
    values: list[Value] = []
    entries: list[Entry] = []
    tombstones: list[Tombstone] = []
    records: list[Record] = []
    lists: list[Listed] = []
    more: bool = False

    @property
    def empty(self) -> bool:
        found = self.values or self.entries or self.tombstones or self.records
        return not found and all(each.left for each in self.lists)

    def add(self, found: Value | Entry | Tombstone) -> None:
        if isinstance(found, Value):
            self.values.append(found)
        elif isinstance(found, Entry):
            self.entries.append(found)
        else:
            self.tombstones.append(found)

    def summary(self) -> Compaction:
        return Compaction(
            revisions=len(self.values),
            tombstones=len(self.tombstones),
            records=len(self.entries) + len(self.records),
            events=sum(record.version > 0 for record in self.records),
            dropped=sum(record.dropped for record in self.records),
            bytes_freed=sum(value.size for value in self.values),
            more=self.more,
        )


async def candidates(reader: Reader, limit: int | None, *, past_grace: bool = False) -> Candidates:
    """What the retention no longer keeps, at most `limit` removals; all of it where `limit` is None.

    First come the keys whose tombstone is due, list by list, each with all that it hides; with `past_grace`
    nothing else. After them a stage begins only when the one before it is exhausted: an entry goes after
    its bytes.
    """
    search = await _Search.begin(reader)
    if limit is not None:
        layout.refuse_newer(search.here)
    found = search.found
    left = limit

    async def take(source: AsyncIterator[T], add: Callable[[T], None]) -> bool:
        """Whether there is room for more after this stage."""
        nonlocal left
        async for each in source:
            if left == 0:
                break
            add(each)
            left = None if left is None else left - 1
        await source.aclose()  # type: ignore[attr-defined]
        found.more = left == 0
        return not found.more

    if (
        await take(search.expiring_batches(), found.add)
        and not past_grace
        and await take(search.delete_batches(), found.add)
        and await take(search.values(), found.add)
        and await take(search.entries(), found.add)
    ):
        await take(search.records(), found.records.append)
    return found


class _Search:
    """Looks for what may go, page by page."""

    def __init__(self, reader: Reader, here: NamespaceHead, now: float) -> None:
        kept = here.head.retention
        self.reader = reader
        self.names = reader.names
        self.here = here
        self.versions = kept.versions
        self.now = now
        self.values_until = now - kept.seconds
        self.records_until = now - kept.record_seconds
        self.found = Candidates(self.records_until)
        self._going: set[tuple[str, int]] = set()
        """(key, version) of the values and entries found so far."""

    @classmethod
    async def begin(cls, reader: Reader) -> _Search:
        fields, now = reader.link.values(await reader.link.ask(reader.head_command(), ("TIME",)))
        return cls(reader, await reader.existing(fields), seconds(now))

    async def expiring_batches(self) -> AsyncIterator[Value | Entry | Tombstone]:
        """All that is left of keys deleted with a grace that is over, however long the retention."""
        async for found in self._buried(self.names.expiring_batches, self.now, values_until=float("inf")):
            yield found

    async def delete_batches(self) -> AsyncIterator[Value | Entry | Tombstone]:
        """The same for keys that were deleted without one, and whose tombstone has had its time."""
        async for found in self._buried(
            self.names.delete_batches, self.values_until, values_until=self.values_until
        ):
            yield found

    async def _buried(
        self, index: str, until: float, *, values_until: float
    ) -> AsyncIterator[Value | Entry | Tombstone]:
        async for page in self._members(index, until):
            for delete_batch in page:
                version, _, token = delete_batch.decode().partition(" ")
                texts = [text async for text in self._elements(self.names.delete_batch(token))]
                for text in texts or [b""]:  # a list that was evicted is still named by the index
                    left = []
                    async for key, lines in self._histories(text.decode().split("\n") if text else []):
                        # A key that came back, or was deleted anew, is no concern of this list any more.
                        if lines and lines[0].location == "tomb" and lines[0].version == int(version):
                            left.append(key)
                            for found in self._all_of(key, lines, values_until):
                                yield found
                    listed = Listed(delete_batch, text, int(version), index, frozenset(left))
                    self.found.lists.append(listed)

    def _all_of(
        self, key: str, lines: Sequence[HistoryEntry], until: float
    ) -> Iterator[Value | Entry | Tombstone]:
        """What may go of a deleted key, newest entry first, in the order in which it must go.

        A value that ended after `until` (the clock was set back) stays, and so does the tombstone over it.
        """
        tomb = lines[0]
        entries = []
        for number, line in enumerate(lines[1:]):
            hidden = line.location == "live" and number == 0
            if hidden or (line.token is not None and (line.ended_at or 0.0) <= until):
                self._going.add((key, line.version))
                yield _hidden(key, line, tomb) if hidden else _value(key, line)
            if hidden or line.location == "gone" or (key, line.version) in self._going:
                entries.append(Entry(key, line.version))
        for entry in entries:
            self._going.add((key, entry.version))
            yield entry
        if len(entries) == len(lines) - 1:
            yield Tombstone(key, tomb.version)

    async def values(self) -> AsyncIterator[Value]:
        """Those superseded long ago, then those beyond the number of versions kept."""
        async for page in self._members(self.names.superseded, self.values_until):
            for value in await self._values_of([_member(text) for text in page]):
                if (value.key, value.version) not in self._going:
                    self._going.add((value.key, value.version))
                    yield value
        async for key in self._crowded():
            async for value in self._surplus(key):
                if (value.key, value.version) not in self._going:
                    self._going.add((value.key, value.version))
                    yield value

    async def entries(self) -> AsyncIterator[Entry]:
        """Entries past the record retention, without bytes or without them soon."""
        seen = {(entry.key, entry.version) for entry in self.found.entries}
        for value in self.found.values:
            if value.ended_at <= self.records_until and (value.key, value.version) not in seen:
                seen.add((value.key, value.version))
                yield Entry(value.key, value.version)
        async for page in self._members(self.names.bodiless, self.records_until):
            for key, version in map(_member, page):
                if (key, version) not in seen:
                    seen.add((key, version))
                    yield Entry(key, version)

    async def records(self) -> AsyncIterator[Record]:
        """Those past the record retention, but for the events that wait to be published."""
        head, published, keep = await self._ask("HMGET", self.names.head, "version", *PUBLISHING_FIELDS[:2])
        removable, waiting = int(head or 0), None if keep is None else int(published)
        if waiting is not None:
            removable = max(waiting, removable - int(keep))
        async for page in self._members(self.names.records, self.records_until):
            for commit_id, score in zip(page, await self._ask("ZMSCORE", self.names.log, *page), strict=True):
                version = int(float(score or 0))
                if version <= removable:
                    yield Record(commit_id.decode(), version, waiting is not None and version > waiting)

    async def _histories(self, keys: Sequence[str]) -> AsyncIterator[tuple[str, list[HistoryEntry]]]:
        """The keys with their history, newest entry first."""
        for part in batched(keys, _HISTORIES):
            asked = (("ZREVRANGE", self.names.history(key), 0, -1) for key in part)
            for key, rows in zip(part, self._values(await self.reader.link.ask(*asked)), strict=True):
                yield key, [layout.line(row) for row in rows]

    async def _elements(self, name: str) -> AsyncIterator[bytes]:
        """The elements of a list, to which nothing is added."""
        start = 0
        while page := await self._ask("LRANGE", name, start, start + _LISTS - 1):
            for element in page:
                yield element
            start += len(page)

    async def _surplus(self, key: str) -> AsyncIterator[Value]:
        """The values of a key that have bytes, without the newest ones, which are kept."""
        rank, start = 0, 0
        while True:
            rows = await self._ask("ZREVRANGE", self.names.history(key), start, start + _PAGE - 1)
            for line in map(layout.line, rows):
                if line.is_value and line.location != "gone":
                    rank += 1
                    if rank > self.versions and line.token is not None:
                        yield _value(key, line)
            if len(rows) < _PAGE:
                return
            start += _PAGE

    async def _values_of(self, members: Sequence[tuple[str, int]]) -> list[Value]:
        asked = (("ZRANGEBYSCORE", self.names.history(key), version, version) for key, version in members)
        found = []
        for (key, _), rows in zip(members, self._values(await self.reader.link.ask(*asked)), strict=True):
            line = layout.line(rows[0]) if rows else None
            if line is not None and line.token is not None:
                found.append(_value(key, line))
        return found

    async def _members(self, name: str, high: float) -> AsyncIterator[list[bytes]]:
        """Members of a sorted set with scores up to `high`, lowest first, in pages."""
        async for members, scores in self._ranked("ZRANGE", name):
            page = [member for member, score in zip(members, scores, strict=True) if score <= high]
            if page:
                yield page
            if len(page) < len(members):
                return

    async def _crowded(self) -> AsyncIterator[str]:
        """Keys that may have more values than are kept: the live one counts, and stands in no count."""
        async for keys, counts in self._ranked("ZREVRANGE", self.names.version_counts):
            for key, count in zip(keys, counts, strict=True):
                if count < self.versions:
                    return
                yield key.decode()

    async def _ranked(self, command: str, name: str) -> AsyncIterator[tuple[list[bytes], list[float]]]:
        """Members and scores in pages, by rank, which the server finds without walking there."""
        start = 0
        while True:
            rows = await self._ask(command, name, start, start + _PAGE - 1, "WITHSCORES")
            if rows:
                yield rows[::2], [float(score) for score in rows[1::2]]
            if len(rows) < 2 * _PAGE:
                return
            start += _PAGE

    async def _ask(self, *command: Argument) -> Any:
        return self._values(await self.reader.link.ask(command))[0]

    def _values(self, replies: Sequence[object]) -> list[Any]:
        return self.reader.link.values(replies)


def _member(text: bytes) -> tuple[str, int]:
    """A member `VERSION KEY`."""
    version, _, key = text.decode().partition(" ")
    return key, int(version)


def _value(key: str, line: HistoryEntry) -> Value:
    assert line.token is not None
    return Value(key, line.version, line.token, 0, line.about.size, line.ended_at or 0.0)


def _hidden(key: str, line: HistoryEntry, tomb: HistoryEntry) -> Value:
    return Value(key, line.version, "", tomb.version, line.about.size, tomb.at)


async def remove(reader: Reader, found: Candidates) -> Compaction:
    """Remove the candidates; those that have changed since they were found are left alone."""
    done = Candidates(found.records_until, more=found.more)
    for values in batched(found.values, _AT_ONCE):
        done.values += _chosen(values, await _prune(reader, values))
    for entries in batched(found.entries, _AT_ONCE):
        done.entries += _chosen(entries, await _forget(reader, entries, []))
    for tombstones in batched(found.tombstones, _AT_ONCE):
        done.tombstones += _chosen(tombstones, await _forget(reader, [], tombstones))
    await _strike(reader, found.lists, done.tombstones)
    counts = [(0, 0, 0), *[await _expire(reader, found, some) for some in batched(found.records, _AT_ONCE)]]
    records, events, dropped = map(sum, zip(*counts, strict=True))
    summary = done.summary()
    return msgspec.structs.replace(summary, records=summary.records + records, events=events, dropped=dropped)


def _chosen(items: Sequence[T], marks: Sequence[int]) -> list[T]:
    return [item for item, mark in zip(items, marks, strict=True) if mark]


async def _prune(reader: Reader, values: Sequence[Value]) -> list[int]:
    names, token = reader.names, layout.token()
    trash = [names.trash(token, number) for number in range(len(values))]
    keys: list[Argument] = [names.head, names.superseded, names.bodiless, names.version_counts]
    arguments: list[Argument] = [_TRASH_MS]
    for value, name in zip(values, trash, strict=True):
        place = names.old(value.token, value.key) if value.token else names.live(value.key)
        keys += names.history(value.key), place, name
        arguments += value.key, value.version, value.token or f"-{value.tomb}"
    marks: list[int] = await _removing(reader, PRUNE, keys, arguments)
    freed = list(zip(trash, values, strict=True))
    for batch in in_portions(freed, lambda each: each[1].size, _FREED_BYTES):
        reader.link.values(await reader.link.ask(("UNLINK", *(name for name, _ in batch))))
    return marks


async def _forget(reader: Reader, entries: Sequence[Entry], tombstones: Sequence[Tombstone]) -> list[int]:
    names = reader.names
    both: list[Entry | Tombstone] = [*entries, *tombstones]
    keys: list[Argument] = [names.head, names.deleted, names.bodiless]
    keys += [names.history(each.key) for each in both]
    arguments: list[Argument] = [len(entries)]
    for each in both:
        arguments += each.key, each.version
    marks: list[int] = await _removing(reader, FORGET, keys, arguments)
    return marks


async def _strike(reader: Reader, lists: Sequence[Listed], gone: Sequence[Tombstone]) -> None:
    """Take away the lists of which nothing is left, and graves that have no list."""
    forgotten = {(tombstone.key, tombstone.version) for tombstone in gone}
    for each in lists:
        if any((key, each.version) not in forgotten for key in each.left):
            continue
        delete_batch = reader.names.delete_batch(each.delete_batch.decode().partition(" ")[2])
        _, more = reader.link.values(
            await reader.link.ask(("LREM", delete_batch, 1, each.text), ("EXISTS", delete_batch))
        )
        if not more:
            reader.link.values(await reader.link.ask(("ZREM", each.index, each.delete_batch)))


async def _expire(reader: Reader, found: Candidates, records: Sequence[Record]) -> tuple[int, int, int]:
    names = reader.names
    ids = [record.commit_id for record in records]
    keys: list[Argument] = [names.head, names.log, names.records, *map(names.commit, ids)]
    removed, events, dropped = await _removing(reader, EXPIRE, keys, [repr(found.records_until), *ids])
    return removed, events, dropped


async def _removing(
    reader: Reader, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument]
) -> Any:
    reply = await reader.link.call(script, keys, arguments)
    if reply is None:
        raise await reader.absence()
    return reply

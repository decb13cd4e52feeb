"""What the store reads of one namespace. Scripts decide at one moment; bytes are fetched beside them.

A value never changes under its version: once a script has said which version to show, its bytes can be
fetched later, from wherever they lie by then.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from somactl.core.names import commit_id_time
from somactl.core.portions import in_portions
from somactl.errors import (
    CorruptValue,
    NotPrimary,
    SomactlError,
    StoreBusy,
    StoreDamaged,
    VersionCompacted,
)
from somactl.store import reading as rules
from somactl.store.base import offloaded
from somactl.store.calls import hear
from somactl.store.contract import CommitRecord, CommitStatus, Entry, Revision, Snapshot, Stats
from somactl.store.redis import layout
from somactl.store.redis.connection import TooMuch
from somactl.store.redis.failures import reply as error_reply
from somactl.store.redis.layout import HEAD_FIELDS, HistoryEntry, Names, NamespaceHead, seconds
from somactl.store.redis.link import ClusterLink, Link, is_replica
from somactl.store.redis.pool import Argument, Command, Reply, Script
from somactl.suggestion import run

STAT = Script("stat")
RESOLVE = Script("resolve")

_WHOLE_BYTES = 16 << 20
"""A larger value is read in pieces: these first, then"""
_PIECE_BYTES = 2 << 20
_BATCH_BYTES = 32 << 20
_STAT_KEYS = 5000
"""Keys that one script looks at: some 10 ms in which the server does nothing else."""
_ATTEMPTS = 10
_SNAPSHOTS = 20


class AsOf(msgspec.Struct, frozen=True):
    """A key at some version: the entry of its history that was the newest then, None where it had none.

    `lapsed`: the value that the entry tells of is hidden by a tombstone whose grace is over. Its bytes are
    there no longer, or not for long.
    """

    here: NamespaceHead
    line: HistoryEntry | None
    lapsed: bool


class Reader:
    """Reads of one namespace."""

    def __init__(self, link: Link, registry: Link, names: Names) -> None:
        self.link = link
        self.registry = registry
        self.names = names

    async def place(self) -> NamespaceHead:
        fields, now = await self.link.ask(self.head_command(), ("TIME",))
        here = await self.existing(self.link.value(fields))
        if not isinstance(now, Exception):  # a user who may not ask for the time goes without
            head = here.head
            hear(seconds(now), incarnation=head.incarnation, version=head.version)
        return here

    def head_command(self) -> Command:
        return ("HMGET", self.names.head, *HEAD_FIELDS)

    async def existing(self, fields: Sequence[bytes | None]) -> NamespaceHead:
        """The head that `fields` are.

        Raises NamespaceNotFound, SchemaMismatch, and StoreDamaged where only the head is missing.
        """
        found = layout.place(self.names.namespace, fields)
        if found is None:
            raise await self.absence()
        return found

    async def absence(self) -> Exception:
        """Why there is no head: the namespace was never made, or has lost it."""
        if await self.is_registered() or await self._has_parts():
            # Another process may have made it in between.
            (fields,) = self.link.values(await self.link.ask(self.head_command()))
            if layout.place(self.names.namespace, fields) is None:
                return layout.damaged(self.names.namespace, "its head is gone, and other parts are there")
        return rules.no_namespace(self.names.namespace)

    async def is_registered(self) -> bool:
        (member,) = await self.registry.ask(("SISMEMBER", layout.REGISTRY, self.names.namespace))
        return bool(self.registry.value(member))

    async def _has_parts(self) -> bool:
        parts = [part for part in (*layout.PARTS, *layout.FURTHER_PARTS) if part != "head"]
        there = await self.link.ask(*(("EXISTS", getattr(self.names, part)) for part in parts))
        return any(self.link.values(there))

    async def clock(self) -> float:
        fields, now = self.link.values(await self.link.ask(self.head_command(), ("TIME",)))
        await self.existing(fields)
        return seconds(now)

    # One key

    async def read(self, key: str, version: int | None) -> Entry:
        if version is not None:
            return await self._read_as_of(key, version)
        for _ in range(_ATTEMPTS):
            # The bytes first: what is committed meanwhile has another digest, and they are fetched again.
            # The head last: a value of an incarnation it does not name yet is not taken for one of it.
            data, entries, fields = await self.link.ask(
                self._beginning(self.names.live(key)),
                ("ZRANGE", self.names.history(key), -1, -1),
                self.head_command(),
            )
            here = await self.existing(self.link.value(fields))
            line = self._live_line(key, self.link.value(entries))
            if line is None:
                await self._refuse_missing(key)
                continue
            try:
                return await self._fetch(here, key, line, first=data)
            except VersionCompacted:
                continue  # superseded and removed since: what is there now is newer
        raise self._restless(f"key {key!r}")

    def _live_line(self, key: str, entries: Sequence[bytes]) -> HistoryEntry | None:
        """The entry of the live value, None where the key has no history; raises KeyNotFound."""
        line = layout.line(entries[0]) if entries else None
        if line is not None:
            rules.require_live(self.names.namespace, key, line.held())
        return line

    async def _refuse_missing(self, key: str) -> None:
        """Raise KeyNotFound, or CorruptValue where the index has a key that has no history.

        Returns where the key came this very moment.
        """
        listed, entries = self.link.values(
            await self.link.ask(("ZSCORE", self.names.keys, key), ("ZRANGE", self.names.history(key), -1, -1))
        )
        if self._live_line(key, entries) is not None:
            return
        if listed is not None:
            raise rules.corrupt(key, 0, "its bytes and its history are missing", "MissingBytes")
        rules.require_live(self.names.namespace, key, None)

    def _restless(self, what: str) -> StoreBusy:
        return StoreBusy(
            f"{what} of namespace {self.names.namespace!r} was superseded and compacted faster than it could "
            "be read",
            hint="run it again, read fewer keys at once, or keep superseded versions longer",
        )

    async def _read_as_of(self, key: str, version: int) -> Entry:
        found = await self._as_of(key, version)
        here, line = found.here, found.line
        held = None if line is None else line.held(lapsed=found.lapsed)
        rules.require_as_of(self.names.namespace, here.head.version, here.floor, key, version, held)
        assert line is not None  # or it would have been refused
        return await self._fetch(here, key, line)

    async def _as_of(self, key: str, version: int) -> AsOf:
        """The newest entry of the key's history that is not newer than `version`."""
        history = self.names.history(key)
        entries, newest, now, fields = self.link.values(
            await self.link.ask(
                ("ZREVRANGEBYSCORE", history, version, "-inf", "LIMIT", 0, 1),
                ("ZRANGE", history, -1, -1),
                ("TIME",),
                self.head_command(),
            )
        )
        line = layout.line(entries[0]) if entries else None
        hidden = line is not None and line.location == "live" and bool(newest)
        lapsed = hidden and layout.line(newest[0]).is_over(seconds(now))
        return AsOf(await self.existing(fields), line, lapsed)

    async def _fetch(self, here: NamespaceHead, key: str, line: HistoryEntry, first: Reply = None) -> Entry:
        """The bytes of a revision, wherever they are by now; `first` as in `_bytes`.

        What does not fit is corrupt only if the revision lay in the same place before and after.
        """
        before = None  # `first` came before the entry
        for _ in range(_ATTEMPTS):
            try:
                return await self._entry(here, key, line, await self._bytes(key, line, first))
            except CorruptValue as exc:
                problem = exc
            found = await self._as_of(key, line.version)
            again = found.line
            if again is None or again.version != line.version or again.location == "gone" or found.lapsed:
                raise VersionCompacted(
                    f"version {line.version} of key {key!r} is no longer kept: retention has removed it",
                    next=run("log", key),
                    key=key,
                )
            if again.location == before:
                raise problem
            line, before, first = again, again.location, None
        raise StoreDamaged(f"version {line.version} of key {key!r} is in none of the places it is said to be")

    def _place_of(self, key: str, line: HistoryEntry) -> str:
        return self.names.old(line.token, key) if line.token else self.names.live(key)

    async def _bytes(self, key: str, line: HistoryEntry, first: Reply = None) -> bytes | memoryview:
        """What lies where the revision is; `first` is its beginning, where that has been fetched already.

        A large value comes in pieces, and so is never held twice, neither here nor in the server.
        """
        name, size = self._place_of(key, line), line.about.size
        if first is None:
            (first,) = await self.link.ask(self._beginning(name))
        data = self._own(key, line, first)
        if size < _WHOLE_BYTES or len(data) < _WHOLE_BYTES:
            return data
        buffer = memoryview(mmap.mmap(-1, size))
        start = 0
        while data and start + len(data) <= size:
            buffer[start : start + len(data)] = data
            start += len(data)
            if start == size:
                return buffer.toreadonly()
            # Of the last piece one byte more, which must not be there.
            end = start + _PIECE_BYTES if start + _PIECE_BYTES < size else size + 1
            data = self._own(key, line, *await self.link.ask(("GETRANGE", name, start, end - 1)))
        return buffer[: start - 1].toreadonly()  # too short or too long: of the wrong length in any case

    def _beginning(self, name: str) -> Command:
        return ("GETRANGE", name, 0, _WHOLE_BYTES - 1)

    def _own(self, key: str, line: HistoryEntry, data: Reply) -> bytes:
        """The bytes, unless something of a foreign type lies there."""
        if isinstance(data, Exception) and error_reply(data)[0] == "WRONGTYPE":
            defect = "its name holds a foreign value of another type"
            raise rules.corrupt(key, line.version, defect, "WrongType") from data
        found: bytes = self.link.value(data)
        return found

    async def _entry(
        self, here: NamespaceHead, key: str, line: HistoryEntry, data: bytes | memoryview
    ) -> Entry:
        arguments = (self.names.namespace, here.head.incarnation, key, line, data)
        return await offloaded(len(data), partial(layout.entry, *arguments))

    # Many keys

    async def _lines(
        self, keys: Sequence[str], *, verdicts: bool
    ) -> tuple[NamespaceHead, dict[str, HistoryEntry]]:
        """The newest entry of each key that has a history, all at the one version of the head."""
        names = [self.names.history(key) for key in keys]
        for attempt in range(_ATTEMPTS):
            portion = _STAT_KEYS if attempt < _ATTEMPTS - 1 else max(len(names), 1)
            parts = [names[i : i + portion] for i in range(0, len(names), portion)] or [[]]
            replies = [
                await self.link.call(STAT, [self.names.head, *part], [int(verdicts)]) for part in parts
            ]
            places = [await self.existing(fields) for fields, _ in replies]
            if len({(each.head.incarnation, each.head.version) for each in places}) == 1:
                break
        entries = [entry for _, part in replies for entry in part]
        found = {key: layout.line(entry) for key, entry in zip(keys, entries, strict=True) if entry}
        return places[0], found

    async def read_many(self, keys: Sequence[str]) -> Snapshot:
        for _ in range(_SNAPSHOTS):
            here, lines = await self._lines(keys, verdicts=True)
            wanted = {key: line for key, line in lines.items() if line.is_value}
            try:
                found = await self._values(here, wanted)
            except VersionCompacted:
                continue  # superseded and removed since the script ran: what is there now is newer
            entries = {key: each for key, each in found.items() if isinstance(each, Entry)}
            corrupt = {key: each for key, each in found.items() if isinstance(each, CorruptValue)}
            absent = tuple(key for key in keys if key not in wanted)
            return Snapshot(here.head.incarnation, here.head.version, entries, absent, corrupt)
        raise self._restless(f"one of {len(keys)} keys")

    async def _values(
        self, here: NamespaceHead, wanted: Mapping[str, HistoryEntry]
    ) -> dict[str, Entry | CorruptValue]:
        found: dict[str, Entry | CorruptValue] = {}
        for batch in in_portions(wanted.items(), lambda item: item[1].about.size, _BATCH_BYTES):
            data = await self._together([self._place_of(key, line) for key, line in batch], batch)
            size = sum(line.about.size for _, line in batch)
            found |= await offloaded(size, partial(self._intact, here, batch, data))
            for (key, line), first in zip(batch, data, strict=True):
                if key in found:
                    continue
                try:
                    found[key] = await self._fetch(here, key, line, first)
                except CorruptValue as exc:
                    found[key] = exc
        return found

    async def _together(self, names: Sequence[str], batch: Sequence[tuple[str, HistoryEntry]]) -> list[Reply]:
        """What lies under the names, or its beginning, in one round trip; None for what MGET does not tell.

        One reply for all takes redis-py a third of the time of a reply for each. But MGET gives all that is
        there, so it is for small values alone; where a foreign one is too large, beginnings are asked for.
        """
        if all(line.about.size < _WHOLE_BYTES for _, line in batch):
            try:
                (reply,) = await self.link.ask(("MGET", *names))
            except SomactlError as exc:
                if not isinstance(exc.__cause__, TooMuch):
                    raise
            else:
                if not isinstance(reply, Exception):
                    return list(reply)
        return await self.link.ask(*map(self._beginning, names))

    def _intact(
        self, here: NamespaceHead, batch: Sequence[tuple[str, HistoryEntry]], data: Sequence[Reply]
    ) -> dict[str, Entry | CorruptValue]:
        """Those that are what was committed; about each other is asked again."""
        namespace, incarnation = self.names.namespace, here.head.incarnation
        found: dict[str, Entry | CorruptValue] = {}
        for (key, line), first in zip(batch, data, strict=True):
            if isinstance(first, bytes) and len(first) == line.about.size:
                with contextlib.suppress(CorruptValue):
                    found[key] = layout.entry(namespace, incarnation, key, line, first)
        return found

    async def stat_many(self, keys: Sequence[str]) -> Stats:
        here, lines = await self._lines(keys, verdicts=False)
        stats = {
            key: layout.stat(key, line, None, here.head.retention)
            for key, line in lines.items()
            if line.is_value
        }
        absent = tuple(key for key in keys if key not in stats)
        return Stats(here.head.incarnation, here.head.version, stats, absent)

    # Histories and records

    async def history(self, key: str) -> list[Revision]:
        command = ("ZREVRANGE", self.names.history(key), 0, -1)
        rows, now, fields = self.link.values(await self.link.ask(command, ("TIME",), self.head_command()))
        await self.existing(fields)
        lines = [layout.line(row) for row in rows]
        if not lines:
            raise rules.no_history(key)
        over = lines[0].is_over(seconds(now))
        return [layout.revision(key, line, lapsed=over and line.location == "live") for line in lines]

    async def log(self, before: int, limit: int) -> list[CommitRecord]:
        here = await self.place()
        end = min(before, here.head.version + 1)
        found: list[CommitRecord] = []
        while limit > len(found):
            many = min(limit - len(found), layout.PAGE)
            command = ("ZREVRANGEBYSCORE", self.names.log, f"({end}", "-inf", "WITHSCORES", "LIMIT", 0, many)
            (rows,) = self.link.values(await self.link.ask(command))
            if not rows:
                break
            found += await self._records([bytes(row).decode() for row in rows[::2]])
            end = int(float(rows[-1]))
        return found

    async def _records(self, ids: Sequence[str]) -> list[CommitRecord]:
        """Their records, without those that have been removed since they were listed."""
        asked = await self.link.ask(
            *(("HMGET", self.names.commit(each), *layout.FIELDS) for each in ids),
            *(("ZSCORE", self.names.log, each) for each in ids),
        )
        replies = self.link.values(asked)
        found: list[CommitRecord] = []
        for commit_id, fields, listed in zip(ids, replies, replies[len(ids) :], strict=False):
            record = layout.record(self.names.namespace, commit_id, fields)
            if record is not None:
                found.append(record)
            elif listed is not None:
                raise layout.damaged(self.names.namespace, f"the record of commit {commit_id} is gone")
        return found

    async def commit_status(self, commit_id: str) -> CommitStatus:
        fields = ("HMGET", self.names.commit(commit_id), *layout.FIELDS)
        _, (found,) = await self.ask_primary(f"commit {commit_id}", fields)
        return self._status(commit_id, found)

    async def ask_primary(self, what: str, *commands: Command) -> tuple[NamespaceHead, list[Any]]:
        """The head, and behind it the replies to `commands`; NotPrimary where a replica gave them."""
        head, *asked, told = await self.link.ask(self.head_command(), *commands, ("INFO", "replication"))
        replies = self.link.values(asked)
        # In a cluster the question was sent on to the primary, and only this answer came from elsewhere.
        if not isinstance(self.link, ClusterLink) and is_replica(told):
            raise NotPrimary(
                f"{self.link.place} is a replica: what it knows of {what} is not final",
                hint="wait for the failover, or name the primary in the URL",
            )
        return await self.existing(self.link.value(head)), replies

    async def resolve(self, commit_id: str) -> CommitStatus:
        keys = [self.names.head, self.names.records, self.names.commit(commit_id)]
        time = commit_id_time(commit_id)
        arguments: list[Argument] = [layout.LAYOUT, commit_id, "" if time is None else repr(time)]
        _, reply = await self.link.run(RESOLVE, keys, arguments, commit_id=commit_id)
        what, *rest = self.link.value(reply)
        if what == b"missing":
            raise await self.absence()
        if what == b"newer":
            raise layout.newer_to_write(self.names.namespace, rest[0])
        await self.existing(rest[0])
        return self._status(commit_id, rest[1])

    def _status(self, commit_id: str, fields: Sequence[Any]) -> CommitStatus:
        record = layout.record(self.names.namespace, commit_id, fields)
        return CommitStatus(commit_id, record.state if record else "unseen", record)

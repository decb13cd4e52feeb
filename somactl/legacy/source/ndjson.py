"""Values that came by a pipe, one a line: `{"key": "...", "value": ...}`, in either order.

Values are migrated in the order of their keys, and a pipe has another. So the lines are put aside in
temporary files as they come, and memory holds one line at a time. Nothing is parsed that a value consists of:
its bytes stay as they stood, and whether they are JSON is for `core` to say. A line that is no such object
ends as a value too, `line 7`, which cannot be read: one bad line neither ends the run nor goes unseen.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import BinaryIO

from somactl.core.names import Pattern
from somactl.core.ndjson_line import split
from somactl.core.text_encoding import wide_encoding, without_mark
from somactl.errors import InvalidFile, ReadOnlyStore
from somactl.legacy.source.contract import FETCH_BYTES, MAX_VALUE_BYTES, Change, Value
from somactl.legacy.source.workspace import PAGE_NAMES, open_database, room, to_bytes, to_text

MAX_LINE_BYTES = MAX_VALUE_BYTES + (64 << 10)
"""A line is a key, a value, and a few characters around them."""
_SKIPPED_AT_ONCE = 1 << 20

_TABLES = """
CREATE TABLE lines (
    key BLOB PRIMARY KEY, line INTEGER NOT NULL, start INTEGER NOT NULL, size INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE defects (line INTEGER PRIMARY KEY, name BLOB, key BLOB, detail TEXT NOT NULL);
CREATE INDEX defect_names ON defects (name);
"""


class NdjsonSource:
    """The lines of `stream`, all of them read when it is constructed; see `source.contract.Source`.

    Raises InvalidFile where the stream cannot be read, StoreFull where the temporary files find no room.
    """

    name = "ndjson"
    replaceable = False

    def __init__(self, stream: BinaryIO) -> None:
        self._index = open_database(_TABLES)
        with room():
            self._values = tempfile.TemporaryFile(prefix="somactl-")  # noqa: SIM115, closed in `close`
        self._end = 0
        try:
            self.identity = f"ndjson sha256:{self._take(stream)}"
            self._name_defects()
        except BaseException:
            self._release()
            raise

    async def names(self, match: Pattern | None) -> AsyncIterator[list[str]]:
        for page in self._pages("SELECT key, key FROM lines WHERE key {} ? ORDER BY key LIMIT ?"):
            chosen = [to_text(key) for key, _ in page if match is None or match.matches(to_text(key))]
            if chosen:
                yield chosen
        for page in self._pages("SELECT name, key FROM defects WHERE name {} ? ORDER BY name LIMIT ?"):
            # Whether a line without a key would have matched cannot be known.
            yield [
                to_text(name)
                for name, key in page
                if match is None or key is None or match.matches(to_text(key))
            ]

    async def fetch(self, keys: Sequence[str]) -> list[Value]:
        values: list[Value] = []
        total = 0
        for key in keys:
            place = self._place(key)
            if place is None:
                values.append(self._defect(key))
                continue
            start, size = place
            if size > MAX_VALUE_BYTES:
                values.append(Value(key, "unreadable", detail=f"{size / 1e6:.0f} MB of JSON"))
                continue
            if total and total + size > FETCH_BYTES:
                break
            self._values.seek(start)
            values.append(Value(key, "text", self._values.read(size)))
            total += size
        return values

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        raise ReadOnlyStore("a change was asked of values that came by a pipe")

    async def close(self) -> None:
        self._release()

    def _release(self) -> None:
        self._index.close()
        with contextlib.suppress(OSError):  # of bytes that still wait to be written, and are of no use
            self._values.close()

    def _take(self, stream: BinaryIO) -> str:
        """Put all lines aside; the digest of them all."""
        digest = hashlib.sha256()
        self._values.seek(0)
        for number, line in enumerate(_lines(stream), start=1):
            digest.update(line)
            if number == 1 and (encoding := wide_encoding(line)) is not None:
                raise InvalidFile(f"standard input is {encoding}, not UTF-8", hint="have it written as UTF-8")
            if len(line) > MAX_LINE_BYTES:
                self._reject(number, None, f"is longer than {MAX_LINE_BYTES / 1e6:.0f} MB")
            elif line.strip():
                self._put(number, without_mark(line) if number == 1 else line)
        with room():
            self._values.flush()
        return digest.hexdigest()

    def _put(self, number: int, line: bytes) -> None:
        try:
            key, value = split(line)
        except ValueError as exc:
            self._reject(number, None, str(exc))
            return
        with room():
            done = self._index.execute(
                "INSERT OR IGNORE INTO lines VALUES (?, ?, ?, ?)",
                (to_bytes(key), number, self._end, len(value)),
            )
            if done.rowcount:
                self._values.write(value)
                self._end += len(value)
                return
            (first,) = self._index.execute(
                "SELECT line FROM lines WHERE key = ?", (to_bytes(key),)
            ).fetchone()
        self._reject(number, key, f"has the key {key[:80]!r}, which line {first} has already")

    def _reject(self, number: int, key: str | None, why: str) -> None:
        with room():
            self._index.execute(
                "INSERT INTO defects VALUES (?, NULL, ?, ?)",
                (number, None if key is None else to_bytes(key), f"line {number} {why}"),
            )

    def _name_defects(self) -> None:
        """`line 7`; where that is a key of the values themselves, another name that is none."""
        with room():
            for (number,) in self._index.execute("SELECT line FROM defects").fetchall():
                name = f"line {number}"
                while self._place(name) is not None:
                    name += " of standard input"
                self._index.execute("UPDATE defects SET name = ? WHERE line = ?", (to_bytes(name), number))

    def _place(self, key: str) -> tuple[int, int] | None:
        with room():
            row: tuple[int, int] | None = self._index.execute(
                "SELECT start, size FROM lines WHERE key = ?", (to_bytes(key),)
            ).fetchone()
        return row

    def _defect(self, name: str) -> Value:
        with room():
            row = self._index.execute(
                "SELECT detail FROM defects WHERE name = ?", (to_bytes(name),)
            ).fetchone()
        return Value(name, "gone") if row is None else Value(name, "unreadable", detail=row[0])

    def _pages(self, select: str) -> Iterator[list[tuple[bytes, bytes | None]]]:
        after, beyond = b"", ">="
        while True:
            with room():
                page = self._index.execute(select.format(beyond), (after, PAGE_NAMES)).fetchall()
            if not page:
                return
            yield page
            after, beyond = page[-1][0], ">"


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines; of one that is too long the beginning, longer than MAX_LINE_BYTES."""
    try:
        while line := stream.readline(MAX_LINE_BYTES + 1):
            yield line
            while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                rest = stream.readline(_SKIPPED_AT_ONCE)
                if not rest or rest.endswith(b"\n"):
                    break
    except OSError as exc:
        raise InvalidFile(f"standard input: {(exc.strerror or 'cannot be read').lower()}") from None

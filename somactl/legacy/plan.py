"""A plan as a file of lines: what was asked, a row for each value and matrix, and a seal over all of it.

    {"plan": 1, "source": ..., "name": ..., "namespace": ..., "asked": {...}}
    {"key": ..., "outcome": "migrate", ...}          `report.MigrationRow`, in the order of the keys' bytes
    {"rows": 481, "sha256": "..."}                   over every byte before this line

It is read line by line, so that a plan may be as long as its source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import msgspec

from somactl.core.text_encoding import without_mark
from somactl.errors import InputRejected, UsageError
from somactl.report import MigrationRow
from somactl.suggestion import again

FORMAT = 1
_MAX_LINE_BYTES = 1 << 20


class Head(msgspec.Struct, frozen=True):
    """What a plan was made for: the migration's source (see `Source.identity`), target and wishes."""

    plan: int
    source: str
    name: str
    namespace: str
    asked: dict[str, Any]


class Seal(msgspec.Struct, frozen=True):
    rows: int
    sha256: str


class PlanWriter:
    """Hands a plan to `write` as its rows come; only `seal` makes it one that can be applied."""

    def __init__(self, write: Callable[[bytes], object], head: Head) -> None:
        self._out = write
        self._digest = hashlib.sha256()
        self._rows = 0
        self._write(head)

    def add(self, rows: Iterable[MigrationRow]) -> None:
        for row in rows:
            self._write(row)
            self._rows += 1

    def seal(self) -> None:
        self._out(msgspec.json.encode(Seal(self._rows, self._digest.hexdigest())) + b"\n")

    def _write(self, value: msgspec.Struct) -> None:
        line = msgspec.json.encode(value) + b"\n"
        self._digest.update(line)
        self._out(line)


class Plan:
    """A plan that was read to its end once, and found whole. Raises InputRejected for any other.

    `digest` names it: two plans with the same rows for the same wishes have the same.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self.head, self.digest = self._verify()

    def rows(self) -> Iterator[MigrationRow]:
        """Every row, from the first one on."""
        self._file.seek(0)
        self._file.readline()
        for line in self._file:
            if line.startswith(b'{"rows":'):
                return
            yield _row(line)

    def refuse_other(self, source: str, namespace: str) -> None:
        """Raise UsageError where it was made for another source or namespace."""
        if self.head.source != source:
            raise UsageError(f"{self._name} was made for {self.head.source}, not for this source")
        if self.head.namespace != namespace:
            raise UsageError(
                f"{self._name} was made for namespace {self.head.namespace!r}, not {namespace!r}"
            )

    def _verify(self) -> tuple[Head, str]:
        digest = hashlib.sha256()
        head: Head | None = None
        rows = 0
        for number, line in enumerate(iter(lambda: self._file.readline(_MAX_LINE_BYTES), b""), 1):
            try:
                if number == 1:
                    line = without_mark(line)
                    head = _head(line)
                elif line.startswith(b'{"rows":'):
                    seal = msgspec.json.decode(line, type=Seal)
                    if head is None or (seal.rows, seal.sha256) != (rows, digest.hexdigest()):
                        raise self._defect("its seal is not that of what it holds")
                    if self._file.read(1):
                        raise self._defect("something follows its seal")
                    return head, seal.sha256
                else:
                    _row(line)
                    rows += 1
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
                raise self._defect(f"line {number} is not what a plan has there ({exc})") from None
            digest.update(line)
        raise self._defect("it ends before its seal")

    def _defect(self, what: str) -> InputRejected:
        return InputRejected(
            f"{self._name} is no whole plan: {what}",
            hint="make it again; a plan is not edited by hand",
            next=again(apply=None, resume=None, dry_run=True, plan_file=self._name),
        )


def _head(line: bytes) -> Head:
    head = msgspec.json.decode(line, type=Head)
    if head.plan != FORMAT:
        raise msgspec.DecodeError(f"plan format {head.plan}; this somactl knows {FORMAT}")
    return head


_row = msgspec.json.Decoder(MigrationRow).decode

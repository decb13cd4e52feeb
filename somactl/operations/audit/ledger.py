"""The ledger of audits: for ranges of keys, up to which version they were proven, and when they were read.

A range claims two things, and each is true by itself:

version   every key of the range whose version (`Stat.version`) is at most this one was proven in that state,
          but for those that are known to be bad (`known_bad`). None: nothing is known
read_at   every key of the range that existed then was read from the store and judged since this time, in
          seconds by the store's clock. None: never

So a key is to be proven where its version is above its range's, or where it is known to be bad; and what is
read again is what has the earliest `read_at`. What is combined never claims more than its parts prove: two
neighbours as one range have the lower version and the earlier time, and two ledgers of the same keys have, at
each key, the higher ones. To claim less than is true costs a proof that was not needed, and nothing else.

A ledger belongs to one incarnation of a namespace, one set of tolerances and one method. It is a value:
every change is a new ledger.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Self

import msgspec
from msgspec.structs import replace

from somactl.errors import CorruptValue
from somactl.operations.audit.ranges import (
    Range,
    cut,
    highest,
    joined,
    overlaid,
    spliced,
    thinned,
    weakest,
)
from somactl.operations.jobs.checkpoint import decode_note
from somactl.store.contract import Note

PREFIX = "audit/ledger/"
NEAR_SECONDS = 60.0
"""Pages that follow each other and were read within this time become one range, read at the first one's."""
MAX_RANGES = 2000
MAX_RANGE_BYTES = 512 << 10
KEEP_RUNS = 100
"""So the promise of a cycle (`cycle`) holds from a share of 1 % a run."""
PACE_RUNS = 10
KEEP_DOUBTS = 10
CLOCK_SLACK = 3600.0
"""A store's clock may be put back by so much (a failover, another server) and no claim is given up."""


class Span(msgspec.Struct, frozen=True):
    """Keys to read again: those behind `after`, up to `upto`, which is None for the end.

    most  how much of them, in the unit of the budget (keys or bytes): the reader begins at the start, goes
          on while less than this was read, and records what it read; None: all
    """

    after: str | None
    upto: str | None
    read_at: float | None
    keys: int
    bytes: int
    most: int | None = None


class Run(msgspec.Struct, frozen=True):
    """One audit, as far as pace and cycle need it: the store's time; what it read, of an incremental one what
    it read again; of which keys (`all`, or a shard), and what share of the unchanged ones it has read again,
    0 where it came to no end."""

    started_at: float
    ended_at: float
    keys: int
    bytes: int
    share: float = 0.0
    scope: str = "all"


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """See the module.

    tolerances  name -> value
    ranges      of all keys, in their order
    doubts      when claims were withdrawn: the last KEEP_DOUBTS times, in their order
    runs        the last KEEP_RUNS, the newest last
    """

    incarnation: str
    tolerances: dict[str, float]
    method: str
    ranges: tuple[Range, ...] = (Range(None),)
    doubts: tuple[float, ...] = ()
    runs: tuple[Run, ...] = ()
    format: int = 1

    def record(
        self, after: str | None, upto: str | None, *, version: int, read_at: float, keys: int, bytes: int
    ) -> Self:
        """All keys behind `after` up to `upto` were read, and proven or noted as known bad.

        version      the namespace's at or before the listing of these keys
        read_at      the store's time at or before the first of these reads
        keys, bytes  how many there were, and their size

        A last page ends where the range does (`upto=None` at the end of the namespace) and not at the last
        key found: otherwise what is behind it stays unread for ever.
        """
        parts = cut(self.ranges, after, upto)
        old = weakest(parts.inside)
        new = Range(upto, highest(old.version, version or None), highest(old.read_at, read_at), keys, bytes)
        before, behind = parts.before, parts.behind
        # A cut gave each side half of a range. How much was inside is known now; the rest is outside.
        if parts.ends_in_a_range:
            behind[0] = _with_more(behind[0], old.keys - keys, old.bytes - bytes)
        elif parts.begins_in_a_range:
            before[-1] = _with_more(before[-1], old.keys - keys, old.bytes - bytes)
        if before and not parts.begins_in_a_range and _is_near(before[-1], new):
            new = weakest([before.pop(), new])
        return self._with(spliced(before, [new], behind))

    def caught_up(self, after: str | None, upto: str | None, version: int) -> Self:
        """Of the keys behind `after` up to `upto` all whose version is above their range's were read, and
        proven or noted as known bad; when the others were read stays as it was.

        version  the namespace's at or before the listing of these keys. One for all pages of a run keeps
                 neighbours alike, and so the ledger small.
        """
        before, inside, behind, *_ = cut(self.ranges, after, upto)
        raised = [replace(each, version=highest(each.version, version or None)) for each in inside]
        return self._with(spliced(before, raised, behind))

    def doubt(self, after: str | None, upto: str | None, at: float) -> Self:
        """Nothing is known any more of the keys behind `after` up to `upto`; `at`: the store's time.

        From then on a merge believes other ledgers, which do not know of it, only what was read since.
        """
        before, inside, behind, *_ = cut(self.ranges, after, upto)
        unknown = [replace(each, version=None, read_at=None) for each in inside]
        return replace(self._with(spliced(before, unknown, behind)), doubts=_last_doubts(*self.doubts, at))

    def ran(self, run: Run) -> Self:
        """With one run more."""
        return replace(self, runs=_last_runs(*self.runs, run))

    def compacted(self, most: int = MAX_RANGES, most_bytes: int = MAX_RANGE_BYTES) -> Self:
        """With few enough ranges to be kept in a note."""
        return replace(self, ranges=tuple(thinned(self.ranges, most, most_bytes)))

    def _with(self, ranges: tuple[Range, ...]) -> Self:
        changed = replace(self, ranges=ranges)
        return changed if len(ranges) <= 2 * MAX_RANGES else changed.compacted()

    def cursor(self) -> Cursor:
        return Cursor(self)

    def recheck(self, *, keys: int | None = None, bytes: int | None = None) -> list[Span]:
        """What to read again within a budget of keys or bytes: what was never read, then what was read
        longest ago. The last one may be larger than what is left for it (`most`)."""
        left = keys if keys is not None else bytes
        spans: list[Span] = []
        for each in sorted(self._spans(), key=_unread_longest):
            if left is not None and left <= 0:
                break
            spans.append(replace(each, most=left))
            if left is not None:
                left -= each.keys if keys is not None else each.bytes
        return spans

    def _spans(self) -> list[Span]:
        ends = [None, *(each.upto for each in self.ranges)]
        return [
            Span(after, each.upto, each.read_at, each.keys, each.bytes)
            for after, each in zip(ends, self.ranges, strict=False)
        ]

    def cannot_be(self, version: int, now: float) -> str | None:
        """Why this ledger is not one of the namespace as it is; None where it may be.

        version, now  the namespace's version and the store's time, as they were after this ledger was read
        """
        claimed = max((each.version or 0 for each in self.ranges), default=0)
        if claimed > version:
            return (
                f"it claims proofs up to version {claimed}, and the namespace is at {version}: "
                "an older state was put back"
            )
        if any(each.read_at is not None and each.read_at > now + CLOCK_SLACK for each in self.ranges):
            return "it claims reads in the future: the store's clock was wrong then, or is now"
        return None

    @property
    def keys(self) -> int:
        """About how many live matrices there were when they were read."""
        return sum(each.keys for each in self.ranges)

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.ranges)

    @property
    def oldest_read(self) -> float | None:
        """Every matrix that existed then was read since this time; None: some range never was."""
        times = [each.read_at for each in self.ranges if each.read_at is not None]
        return min(times) if len(times) == len(self.ranges) else None

    def share_read(self, keys: int) -> float:
        """The share, 0 to 1, of the namespace's matrices that are in ranges that were read.

        keys  how many there are in the namespace (`Store.summary`): of what was never read, the ledger
              cannot know how much it is
        """
        read = sum(each.keys for each in self.ranges if each.read_at is not None)
        total = max(keys, self.keys)
        return read / total if total else 1.0 if self.oldest_read is not None else 0.0

    def cycle_seconds(self, keys: int) -> float | None:
        """In what time all `keys` of the namespace are read once, at the pace of the last runs.

        The pace is what was read by the last PACE_RUNS noted runs but the first, over the time from the end
        of the first to the end of the last: whole periods, pauses included. None where fewer than two runs
        are noted, or they read nothing.
        """
        runs = self.runs[-PACE_RUNS:]
        if len(runs) < 2:
            return None
        seconds = runs[-1].ended_at - runs[0].ended_at
        read = sum(run.keys for run in runs[1:])
        return keys * seconds / read if read > 0 and seconds > 0 else None


class Cursor:
    """The range of each key, for keys that are asked for in ascending order."""

    def __init__(self, ledger: Ledger) -> None:
        self._rest = iter(ledger.ranges)
        self._range = next(self._rest)

    def at(self, key: str) -> Range:
        while self._range.upto is not None and key > self._range.upto:
            self._range = next(self._rest)
        return self._range


def merge(one: Ledger, other: Ledger) -> Ledger:
    """What two ledgers claim together: at each key the higher version and the later time.

    Where one knows of a doubt that the other does not know of, it believes the other only what was read
    later. Raises ValueError for ledgers of another incarnation, other tolerances or another method.
    """
    if _subject(one) != _subject(other):
        raise ValueError("the two ledgers are not about the same")
    ranges = overlaid(_believed(one, other.doubts), _believed(other, one.doubts))
    return replace(
        one,
        ranges=tuple(ranges),
        doubts=_last_doubts(*one.doubts, *other.doubts),
        runs=_last_runs(*one.runs, *other.runs),
    )


def _subject(ledger: Ledger) -> tuple[str, dict[str, float], str]:
    return ledger.incarnation, ledger.tolerances, ledger.method


def _believed(ledger: Ledger, doubts: tuple[float, ...]) -> list[Range]:
    """The ranges, without what `doubts` that this ledger does not know of may have withdrawn."""
    unknown = set(doubts) - set(ledger.doubts)
    if not unknown:
        return list(ledger.ranges)
    return joined(
        each
        if each.read_at is not None and each.read_at > max(unknown)
        else replace(each, version=None, read_at=None)
        for each in ledger.ranges
    )


def _last_doubts(*doubts: float) -> tuple[float, ...]:
    return tuple(sorted(set(doubts))[-KEEP_DOUBTS:])


def _last_runs(*runs: Run) -> tuple[Run, ...]:
    ordered = sorted(dict.fromkeys(runs), key=lambda run: (run.ended_at, run.started_at))
    return tuple(ordered[-KEEP_RUNS:])


def _with_more(each: Range, keys: int, size: int) -> Range:
    return replace(each, keys=max(0, each.keys + keys), bytes=max(0, each.bytes + size))


def _is_near(one: Range, new: Range) -> bool:
    """Whether two neighbours were read so soon after each other that one claim for both loses nothing that
    matters: at most what was committed in that time is proven once more."""
    if one.read_at is None or new.read_at is None or one.version is None or new.version is None:
        return False
    return 0 <= new.read_at - one.read_at <= NEAR_SECONDS


def _unread_longest(span: Span) -> tuple[bool, float]:
    return (False, 0.0) if span.read_at is None else (True, span.read_at)


def subject_digest(tolerances: Mapping[str, float], method: str) -> str:
    """16 hex digits of the SHA-256 of tolerances and method as canonical JSON: what notes are named by."""
    about = {"method": method, "tolerances": {name: float(value) for name, value in tolerances.items()}}
    text = json.dumps(about, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def ledger_name(tolerances: Mapping[str, float], method: str) -> str:
    return PREFIX + subject_digest(tolerances, method)


def encode_ledger(ledger: Ledger) -> bytes:
    """Its JSON, compacted: under 1 MB whatever the number and the length of keys."""
    return msgspec.json.encode(ledger.compacted())


def decode_ledger(note: Note) -> Ledger:
    """Raises SchemaMismatch for a newer format, CorruptValue for what is no ledger."""
    ledger = decode_note(note, Ledger)
    ends = [each.upto for each in ledger.ranges]
    known = [end for end in ends[:-1] if end is not None]
    in_order = len(known) == len(ends) - 1 and all(a < b for a, b in itertools.pairwise(known))
    counted = all(min(each.keys, each.bytes, each.version or 0) >= 0 for each in ledger.ranges)
    if not ends or ends[-1] is not None or not in_order or not counted:
        raise CorruptValue(f"note {note.name!r} has ranges that do not follow each other", note=note.name)
    return ledger

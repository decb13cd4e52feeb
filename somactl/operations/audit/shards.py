"""Shards of an audit: ranges of keys that together hold every key once, each about as much work as another.

All shards of one run must cut at the same keys, whenever each of them starts. So the first to come keeps its
plan in a note, which the others read. `somactl evidence merge` refuses what does not join.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate

import msgspec

from somactl.errors import (
    AccessDenied,
    ConfigurationError,
    OutcomeUnknown,
    ReadOnlyStore,
    StoreUnavailable,
    UsageError,
    VersionConflict,
)
from somactl.operations.audit.pages import Bounds
from somactl.operations.jobs.checkpoint import Notes, decode_note, forget_notes
from somactl.store.contract import DAY, Stat, Store

PREFIX = "audit/shards/"
KEEP_SECONDS = 14 * DAY
MOST_SHARDS = 4096
FINENESS = 256
"""How many pieces a shard is made of, at least: they differ by about one."""
TRIES = 5
LEAST_KEY = " "
"""The first of all keys there may be: where a namespace is empty, shards end there."""

_SHARD = re.compile(r"([0-9]{1,5})/([0-9]{1,5})\Z")
_RUN = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class Shard:
    """The shard `index` of `of`, counted from 1."""

    index: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `2/8`. Raises UsageError."""
        found = _SHARD.match(text)
        if found is None:
            raise UsageError(f"--shard {text!r} is no shard", hint="write 1/4 up to 4/4, or auto in a Job")
        return cls._checked(int(found[1]), int(found[2]), f"--shard {text}")

    @classmethod
    def of_job(cls, index: str | None, count: str | None) -> Shard:
        """From a Kubernetes Job's completion index, which counts from 0, and its completions.

        Raises ConfigurationError.
        """
        for name, value in (("JOB_COMPLETION_INDEX", index), ("JOB_COMPLETION_COUNT", count)):
            if value is None or not re.fullmatch(r"[0-9]{1,5}", value):
                raise ConfigurationError(
                    f"--shard auto: {name} {'is not set' if value is None else 'is no number'}",
                    hint="an Indexed Job sets the index itself; set JOB_COMPLETION_COUNT to its completions",
                )
        try:
            return cls._checked(int(index or 0) + 1, int(count or 0), "--shard auto")
        except UsageError as exc:
            raise ConfigurationError(exc.message, hint=exc.hint) from None

    @classmethod
    def _checked(cls, index: int, of: int, source: str) -> Shard:
        if not 1 <= index <= of <= MOST_SHARDS:
            raise UsageError(
                f"{source}: there is no shard {index} of {of}", hint=f"they count from 1, up to {MOST_SHARDS}"
            )
        return cls(index, of)

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    @property
    def scope(self) -> str:
        """Its name where it is part of another name."""
        return f"{self.index}-of-{self.of}"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run cuts: the last key of each shard but the last one's, in order; a shard may be empty."""

    incarnation: str
    uptos: list[str]
    format: int = 1

    def bounds(self, shard: Shard) -> Bounds:
        ends = [None, *self.uptos, None]
        return Bounds(ends[shard.index - 1], ends[shard.index])


@dataclass(frozen=True, slots=True)
class Placed:
    """The range of a shard in a run, and a warning where it may not fit the others'."""

    bounds: Bounds
    run: str
    warning: str = ""


async def bounds(store: Store, shard: Shard, notes: Notes | None, run: str | None) -> Placed:
    """The range of a shard.

    run  what is the same for all shards of one run, and for no other one; None: today's date, by the store's
         clock

    Raises UsageError for a run that cannot be a name, NamespaceNotFound, StoreUnavailable.
    """
    now = await store.clock()
    run = run or datetime.fromtimestamp(now, UTC).date().isoformat()
    if not _RUN.match(run):
        raise UsageError(
            f"the run {run!r} cannot be a name",
            hint="1 to 64 characters of letters, digits, '.', '_' and '-'",
        )
    incarnation = (await store.head()).incarnation
    if notes is not None:
        try:
            return Placed((await _agreed(store, shard.of, notes, run, incarnation)).bounds(shard), run)
        except (AccessDenied, ReadOnlyStore) as exc:
            why = exc.message
    else:
        why = "no notes are kept"
    plan = await _planned(store, shard.of, incarnation)
    warning = (
        f"the plan of the shards cannot be kept ({why}): those that start at different moments may not fit"
    )
    return Placed(plan.bounds(shard), run, warning)


async def _agreed(store: Store, of: int, notes: Notes, run: str, incarnation: str) -> Plan:
    """The plan that all shards of the run share; made here where this one is the first."""
    name, plan = f"{PREFIX}{run}-{of}", None
    for _ in range(TRIES):
        note = (await notes.read_notes([name])).get(name)
        if note is not None:
            found = decode_note(note, Plan)
            if found.incarnation == incarnation and len(found.uptos) == of - 1:
                return found
        plan = plan or await _planned(store, of, incarnation)
        try:
            await notes.write_notes(
                {name: msgspec.json.encode(plan)}, {name: 0 if note is None else note.version}
            )
        except (VersionConflict, OutcomeUnknown):
            continue  # another shard's plan, or perhaps this one's: reading tells
        await forget_notes(notes, PREFIX, await store.clock() - KEEP_SECONDS, dry_run=False)
        return plan
    raise StoreUnavailable(f"the plan of the shards, the note {name!r}, changes again and again")


async def _planned(store: Store, of: int, incarnation: str) -> Plan:
    pieces = _Pieces(FINENESS * of)
    async for stat in _stats(store):
        pieces.add(stat.key, stat.size if stat.kind == "rho" else 0)
    return Plan(incarnation=incarnation, uptos=pieces.cut(of))


async def _stats(store: Store) -> AsyncIterator[Stat]:
    async for page in store.scan():
        for stat in page:
            yield stat


class _Pieces:
    """The keys in order, in at most `2 * most` pieces of about equal weight: last key and weight of each."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._pieces: list[tuple[str, int]] = []

    def add(self, key: str, weight: int) -> None:
        self._pieces.append((key, weight))
        if len(self._pieces) >= 2 * self._most:
            self._thin()

    def _thin(self) -> None:
        enough = sum(weight for _, weight in self._pieces) / self._most
        thinned: list[tuple[str, int]] = []
        held = 0
        for key, weight in self._pieces:
            held += weight
            if held and held >= enough:
                thinned.append((key, held))
                held = 0
        if held or not thinned:
            thinned.append((self._pieces[-1][0], held))
        self._pieces = thinned

    def cut(self, of: int) -> list[str]:
        """The last keys of all parts but the last one, of `of` parts as near to equal as the pieces allow."""
        ends = _ends([weight for _, weight in self._pieces], of)
        return [self._pieces[end][0] if self._pieces else LEAST_KEY for end in ends]


def _ends(weights: Sequence[int], of: int) -> list[int]:
    """Where to end each part but the last: at the piece whose end is nearest to its share of the whole."""
    until = list(accumulate(weights))
    ends, place = [], 0
    for part in range(1, of):
        share = (until[-1] if until else 0) * part / of
        while place + 1 < len(until) and abs(until[place + 1] - share) <= abs(until[place] - share):
            place += 1
        ends.append(place)
    return ends

"""Which watched keys are read next. Pure: times are given."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import msgspec

from somactl.core.portions import in_portions
from somactl.store.contract import Stat

PORTION_KEYS = 100
PORTION_BYTES = 8 << 20


class Due(msgspec.Struct, gc=False):
    """A watched key.

    version       as it was listed; read_version: as it was read last, None: it never was
    tried_at      when it was read last, or was to be
    bad, bad_copy what was read, or its copy, was not right
    """

    key: str
    size: int
    version: int
    read_version: int | None = None
    tried_at: float = -math.inf
    bad: bool = False
    bad_copy: bool = False

    @property
    def urgent(self) -> bool:
        """Whether it is not known as it is."""
        return self.read_version != self.version  # after a restore of the store it may be an older one


class Change(NamedTuple):
    """What is new in a listing, what was written since it was read, and what is gone."""

    new: list[str]
    changed: list[str]
    gone: list[str]


class Schedule:
    """The watched keys of a namespace.

    A round reads the bad keys first. Then portions of what is new or changed and of what was read longest ago
    take turns, so that a namespace in which much is written starves none of its other keys.
    """

    def __init__(self) -> None:
        self.due: dict[str, Due] = {}

    def listed(self, stats: Iterable[Stat]) -> Change:
        """Take in a whole listing."""
        now: dict[str, Due] = {}
        new, changed = [], []
        for stat in stats:
            due = self.due.get(stat.key)
            if due is None:
                due = Due(stat.key, stat.size, stat.version)
                new.append(stat.key)
            else:
                due.size, due.version = stat.size, stat.version
                if due.read_version is not None and due.urgent:
                    changed.append(stat.key)
            now[stat.key] = due
        gone = [key for key in self.due if key not in now]
        self.due = now
        return Change(new, changed, gone)

    def read(self, key: str, version: int | None, *, bad: bool) -> None:
        """Note what was read; `version` None: its bytes tell none, or there are none."""
        due = self.due.get(key)
        if due is not None:
            due.read_version = due.version if version is None else version
            due.bad = bad

    def copy_judged(self, key: str, *, bad: bool) -> None:
        due = self.due.get(key)
        if due is not None:
            due.bad_copy = bad

    def portions(self) -> Iterator[list[Due]]:
        """All keys, in the order in which they are to be read, in portions."""
        ordered = sorted(self.due.values(), key=lambda due: due.tried_at)
        bad = [due for due in ordered if due.bad or due.bad_copy]
        others = [due for due in ordered if not (due.bad or due.bad_copy)]
        urgent = [due for due in others if due.urgent]
        rest = [due for due in others if not due.urgent]
        yield from _cut(bad)
        for pair in itertools.zip_longest(_cut(urgent), _cut(rest)):
            yield from filter(None, pair)


def _cut(dues: Collection[Due]) -> Iterator[list[Due]]:
    return in_portions(dues, lambda due: due.size, PORTION_BYTES, PORTION_KEYS)

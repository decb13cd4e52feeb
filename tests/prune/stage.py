"""A store on which others write and a run dies, at chosen moments; and what a prune may do there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from somactl.core.order import Item, Order
from somactl.core.retention import Goal
from somactl.store.contract import Receipt, Stats, Store
from somactl.testing.values import delete, put

HOOKED = ("stat_many", "summary", "commit_matrix_update", "commit_status", "read_notes", "write_notes")


class KilledError(Exception):
    """The process died here: nothing of somactl catches it."""


@dataclass(frozen=True)
class Event:
    """At the `number`-th call (from 0) of `method`: `put` or `rm` of a key before it; or the run dies there,
    `die` before the call and `die-after` it."""

    method: str
    number: int
    what: str
    key: str = ""


@dataclass(frozen=True)
class Look:
    """What one look at some keys found, and what the namespace held by then."""

    keys: tuple[str, ...]
    states: Mapping[str, tuple[int, int]]
    total: tuple[int, int]


@dataclass
class Stage:
    """Passes everything on to `store`; keeps a model of its live keys, every look, and every prune commit."""

    store: Store
    script: Sequence[Event] = ()
    live: dict[str, tuple[int, int]] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)
    pruned: list[tuple[int, tuple[str, ...], Mapping[str, tuple[int, int]]]] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    seed: int = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.store, name)
        if name not in HOOKED:
            return found

        async def hooked(*arguments: Any, **options: Any) -> Any:
            here = name, self.calls[name]
            now = [event for event in self.script if (event.method, event.number) == here]
            self.calls[name] += 1
            for event in now:
                await self._disturb(event)
            before = dict(self.live)
            result = await found(*arguments, **options)
            self._note(name, before, result)
            if any(event.what == "die-after" for event in now):
                raise KilledError
            return result

        return hooked

    async def put(self, *keys: str, n: int = 2) -> None:
        self.seed += 1
        receipt = await put(self.store, *keys, seed=self.seed)
        stats = await self.store.stat_many(list(keys))
        self.live |= {key: (receipt.version, stats.stats[key].size) for key in keys}

    async def _disturb(self, event: Event) -> None:
        if event.what == "die":
            raise KilledError
        if event.what == "put":
            await self.put(event.key)
        elif event.what == "rm":
            await delete(self.store, event.key)
            self.live.pop(event.key, None)

    def _note(self, name: str, before: dict[str, tuple[int, int]], result: Any) -> None:
        if name == "stat_many":
            assert isinstance(result, Stats)
            keys = (*result.stats, *result.absent)
            states = {key: self.live[key] for key in keys if key in self.live}
            assert {key: stat.version for key, stat in result.stats.items()} == {
                key: version for key, (version, _) in states.items()
            }
            held = len(self.live), sum(size for _, size in self.live.values())
            self.looks.append(Look(keys, states, held))
        elif name == "commit_matrix_update":
            assert isinstance(result, Receipt)
            if not result.replayed:
                self.pruned.append((len(self.looks) - 1, tuple(result.keys), before))
                for key in result.keys:
                    self.live.pop(key, None)


def applicable(items: Sequence[Item], look: Look, goal: Goal, deleted: int) -> list[str]:
    """What an order deletes by its norm, said in another way than `plan` does: one item after another."""
    keys, size = look.total
    chosen: list[str] = []
    for item in items:
        met = {
            "all": False,
            "limit": deleted + len(chosen) >= goal.amount,
            "keep": keys <= goal.amount,
            "max-bytes": size <= goal.amount,
        }[goal.kind]
        if met:
            break
        state = look.states.get(item.key)
        if state is None or item.version not in (None, state[0]):
            continue
        chosen.append(item.key)
        keys, size = keys - 1, size - state[1]
    return chosen


def check_prefix(stage: Stage, order: Order, goal: Goal) -> list[str]:
    """Every commit deleted exactly what the order says of what was seen last before it; all that was deleted.

    And at the versions that were seen: nothing that was written in between.
    """
    deleted: list[str] = []
    for look_index, keys, before in stage.pruned:
        look = stage.looks[look_index]
        items = [item for item in order.items if item.key in look.keys]
        assert set(keys) == set(applicable(items, look, goal, len(deleted)))
        for key in keys:
            assert before[key] == look.states[key]
        deleted += [item.key for item in items if item.key in keys]
    return deleted

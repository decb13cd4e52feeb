"""What a namespace held at each of its versions, according to its log."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from math import inf

from faults.history import Attempt, Seen


class Model:
    """The commits of the log, replayed: `commits[v - 1]` made version v."""

    def __init__(self, commits: list[Attempt]) -> None:
        self.commits = commits
        self._states: dict[str, list[tuple[int, Seen]]] = {}
        for version, attempt in enumerate(commits, start=1):
            for key, marker in attempt.updates.items():
                states = self._states.setdefault(key, [(0, None)])
                if marker is not None:
                    states.append((version, (version, marker)))
                elif states[-1][1] is not None:  # else it deletes what is absent already
                    states.append((version, None))

    @property
    def head(self) -> int:
        return len(self.commits)

    @property
    def keys(self) -> list[str]:
        return sorted(self._states)

    def at(self, key: str, version: int) -> Seen:
        """What the key held as of a version of the namespace."""
        states = self._states.get(key, [(0, None)])
        return states[bisect_right(states, version, key=lambda state: state[0]) - 1][1]

    def version_at(self, key: str, version: int) -> int:
        """The key's own version as of one of the namespace, as an expectation means it: 0 where absent."""
        seen = self.at(key, version)
        return 0 if seen is None else seen[0]

    def history(self, key: str) -> list[tuple[int, int | None]]:
        """(version, marker) of every revision, None for a delete, newest first."""
        states = self._states.get(key, [(0, None)])
        return [(version, seen and seen[1]) for version, seen in reversed(states[1:])]

    def periods(self, key: str, seen: Seen) -> Iterator[tuple[int, float]]:
        """First and last version of each time during which the key held just this; inf: it still does."""
        states = self._states.get(key, [(0, None)])
        ends = [float(version - 1) for version, _ in states[1:]] + [inf]
        for (first, state), last in zip(states, ends, strict=True):
            if state == seen:
                yield first, last

    def meets(self, expected: Mapping[str, int], version: int) -> bool:
        """Whether every key was at the version that was expected of it, as of a version of the namespace."""
        return all(self.version_at(key, version) == wanted for key, wanted in expected.items())

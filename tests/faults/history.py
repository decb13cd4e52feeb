"""What clients did and saw while faults happened, for `faults.checker` to judge afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from faults.marked import SMALL, envelope, marker_of
from somactl.core.framing import peek
from somactl.errors import KeyNotFound, OutcomeUnknown, StoreFull, StoreUnavailable, VersionConflict
from somactl.store.contract import CommitMetadata, Entry, Receipt, Store

Outcome = Literal["sent", "acknowledged", "refused", "unknown", "cancelled"]
Seen: TypeAlias = "tuple[int, int] | None"
"""Version and marker of a key's value; None where there is none."""


@dataclass
class Attempt:
    """One commit as its client knows it.

    updates   key -> marker, None for a delete
    expected  key -> version that was demanded
    floor     the newest version that any client knew to be committed before this was sent
    ended     time.time() when the client knew what it was going to know
    """

    commit_id: str
    updates: Mapping[str, int | None]
    expected: Mapping[str, int]
    side: int
    floor: int
    outcome: Outcome = "sent"
    receipt: Receipt | None = None
    error: Exception | None = None
    ended: float = 0.0

    def envelopes(self, namespace: str) -> dict[str, bytes | None]:
        return {
            key: None if marker is None else envelope(namespace, key, marker, self.side)
            for key, marker in self.updates.items()
        }

    def contents(self, namespace: str) -> dict[str, str | None]:
        """Key -> content digest, as a receipt lists them."""
        envelopes = self.envelopes(namespace)
        return {key: None if data is None else peek(data).content for key, data in envelopes.items()}

    def __str__(self) -> str:
        told = self.receipt.version if self.receipt else self.error
        return f"{self.commit_id} ({self.outcome}: {told})"


@dataclass(frozen=True)
class Look:
    """What one read returned. `version` is that of a snapshot, None for a read of one key.

    floor  the newest version that any client knew to be committed before the read began
    began  time.time() before the read was sent
    """

    client: str
    floor: int
    began: float
    seen: Mapping[str, Seen]
    version: int | None
    served_by: str
    degraded: bool


@dataclass
class History:
    """Attempts by commit id, and looks in the order in which they ended.

    `failed_reads` counts reads that the store could not answer; `torn` says what no reader may ever see.
    """

    namespace: str
    attempts: dict[str, Attempt] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    failed_reads: int = 0
    newest: int = 0
    """The newest version that is known to be committed."""

    @property
    def acknowledged(self) -> int:
        return sum(attempt.outcome == "acknowledged" for attempt in self.attempts.values())

    @property
    def failed(self) -> int:
        """How many commits and reads were refused, or ended in doubt."""
        return self.count("unknown", "refused") + self.failed_reads

    def count(self, *outcomes: Outcome) -> int:
        return sum(attempt.outcome in outcomes for attempt in self.attempts.values())

    async def commit(
        self,
        store: Store,
        commit_id: str,
        updates: Mapping[str, int | None],
        expected: int | Mapping[str, int] | None = None,
        *,
        side: int = SMALL,
    ) -> Attempt:
        """Commit, and note what became of it.

        Outcomes are a conflict, a server that is full or may be asked again, and the unknown one. Anything
        else is raised, be it a bug's exception or an error that nothing here can be the reason for: no
        fault makes a store damaged, or a schema foreign.
        """
        spelt = dict.fromkeys(updates, expected) if isinstance(expected, int) else dict(expected or {})
        attempt = Attempt(commit_id, updates, spelt, side, floor=self.newest)
        assert commit_id not in self.attempts, f"{commit_id} is used twice"
        self.attempts[commit_id] = attempt
        try:
            attempt.receipt = await store.commit_matrix_update(
                attempt.envelopes(self.namespace), CommitMetadata(), expected, commit_id=commit_id
            )
            attempt.outcome = "acknowledged"
            self.newest = max(self.newest, attempt.receipt.version)
        except asyncio.CancelledError:
            attempt.outcome = "cancelled"
            raise
        except OutcomeUnknown as exc:
            attempt.outcome, attempt.error = "unknown", exc
        except (StoreUnavailable, VersionConflict) as exc:
            attempt.outcome, attempt.error = "refused", exc
            if isinstance(exc, StoreUnavailable):
                _check_passing(exc)
        finally:
            attempt.ended = time.time()
        return attempt

    async def snapshot(self, store: Store, client: str, keys: Sequence[str]) -> Look | None:
        """Look at many keys at once; None where the store could not answer."""
        floor, began = self.newest, time.time()
        try:
            snapshot = await store.read_many(keys)
        except StoreUnavailable as exc:
            self._failed(exc)
            return None
        self.torn += [f"{client}: {error}" for error in snapshot.corrupt.values()]
        seen = {key: self._seen(key, snapshot.entries.get(key)) for key in keys}
        one = next(iter(snapshot.entries.values()), None)
        return self._note(
            Look(
                client,
                floor,
                began,
                seen,
                snapshot.version,
                served_by=one.served_by if one else store.name,
                degraded=any(entry.degraded for entry in snapshot.entries.values()),
            )
        )

    async def read(self, store: Store, client: str, key: str) -> Look | None:
        """Look at one key; None where the store could not answer."""
        floor, began = self.newest, time.time()
        entry: Entry | None = None
        try:
            entry = await store.read(key)
        except KeyNotFound:
            entry = None
        except StoreUnavailable as exc:
            self._failed(exc)
            return None
        seen = {key: self._seen(key, entry)}
        served_by, degraded = (entry.served_by, entry.degraded) if entry else (store.name, False)
        return self._note(Look(client, floor, began, seen, None, served_by, degraded))

    def _failed(self, error: StoreUnavailable) -> None:
        _check_passing(error)
        self.failed_reads += 1

    def _note(self, look: Look) -> Look:
        self.looks.append(look)
        return look

    def _seen(self, key: str, entry: Entry | None) -> Seen:
        if entry is None:
            return None
        if entry.key != key:
            self.torn.append(f"the read of {key!r} returned {entry!r}")
        return entry.version, marker_of(entry.data, self.namespace, key)


def _check_passing(error: StoreUnavailable) -> None:
    """Raise `error` unless it may go away by itself, or when room is made."""
    if not error.retryable and not isinstance(error, StoreFull):
        raise error

"""Judges a history after the fault: what is readable now must explain everything that clients were told.

`judge` returns what is wrong, as sentences; none, if every promise held. It reads through a store object of
its own. What it looks at:

- every commit whose outcome was unknown is settled by `commit_status(resolve=True)`, and stays so: sent
  again, an aborted one is refused;
- an acknowledged commit is recorded where its receipt says, a refused one is nowhere;
- the log has the versions 1..head, each made by one commit that was really sent, with those contents;
- live values, histories and old versions are what replaying the log gives: nothing torn, nothing lost;
- expectations held where a commit was made, and did not where one was refused for them;
- everything read during the run was committed, whole, and not older than promised;
- there is one event for each version, and the store takes the next commit.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from msgspec.structs import replace

from faults.history import Attempt, History, Look
from faults.marked import marker_of
from faults.model import Model
from somactl.errors import CommitAborted, KeyNotFound, SomactlError, VersionConflict
from somactl.store.contract import CommitMetadata, CommitState, Receipt, Revision, Store
from somactl.store.wrapper import Retrying
from somactl.testing.values import event_versions

ENOUGH = 1_000_000
OLD_VERSIONS = 100
"""How many of the values kept from earlier are read again."""


class Place(Protocol):
    """The database under test, as the judge needs it."""

    namespace: str
    stale_seconds: float | None
    """For how long a read of one key may return what is superseded; None where it may not at all."""

    def open(self, *, patient: bool = False) -> Store: ...

    async def litter(self) -> list[str]:
        """What lies in the database and should not, one sentence each."""
        ...


async def judge(place: Place, history: History) -> list[str]:
    """What is wrong after the fault, once the servers run again."""
    store = place.open(patient=True)
    own = History(place.namespace, newest=history.newest)
    try:
        defects = await _defects(store, place, history, own)
    finally:
        await store.close()
    return [*history.torn, *own.torn, *defects]


async def _defects(store: Store, place: Place, history: History, own: History) -> list[str]:
    settled = await _settle(store, history)
    defects = _wrong_outcomes(history, settled)
    model, log_defects = await _model(store, history)
    defects += log_defects
    if model is None:
        return defects
    committed = {attempt.commit_id for attempt in model.commits}
    for commit_id, state in settled.items():
        if (state == "committed") != (commit_id in committed):
            defects.append(f"{commit_id} is {state} by its status, and the log says otherwise")
    defects += _wrong_expectations(history, model)
    defects += await _wrong_values(store, own, model)
    defects += await _wrong_old_values(store, model)
    defects += _wrong_looks([*history.looks, *own.looks], model, place.stale_seconds)
    defects += await _late_arrivals(store, history, settled)
    events = await event_versions(store)
    if events != list(range(1, model.head + 1)):
        defects.append(f"there are the events {events} for the versions 1 to {model.head}")
    defects += await place.litter()
    defects += await _next_commit(store, history, own, model)
    return defects


async def _settle(store: Store, history: History) -> dict[str, CommitState]:
    """Commit id -> what became of it, made final."""
    return {
        commit_id: (await store.commit_status(commit_id, resolve=True)).state
        for commit_id in history.attempts
    }


def _wrong_outcomes(history: History, settled: dict[str, CommitState]) -> list[str]:
    allowed: dict[str, tuple[CommitState, ...]] = {
        "acknowledged": ("committed",),
        "refused": ("aborted",),
        "sent": ("committed", "aborted"),
        "unknown": ("committed", "aborted"),
        "cancelled": ("committed", "aborted"),
    }
    return [
        f"{attempt} is {settled[commit_id]}"
        for commit_id, attempt in history.attempts.items()
        if settled[commit_id] not in allowed[attempt.outcome]
    ]


async def _model(store: Store, history: History) -> tuple[Model | None, list[str]]:
    """The namespace as its log tells it, and what is wrong with the log; no model where versions are."""
    defects = []
    head = await store.head()
    commits: list[Attempt] = []
    receipts = [record.receipt for record in await store.log(limit=ENOUGH) if record.receipt]
    if [receipt.version for receipt in receipts] != list(range(head.version, 0, -1)):
        versions = [receipt.version for receipt in receipts]
        return None, [f"the log has the versions {versions}, and the head is at {head.version}"]
    for receipt in reversed(receipts):
        attempt = history.attempts.get(receipt.commit_id)
        if attempt is None:
            return None, [f"version {receipt.version} was made by {receipt.commit_id}, which no client sent"]
        commits.append(attempt)
        if receipt.keys != attempt.contents(history.namespace):
            defects.append(f"version {receipt.version} has other contents than {attempt}")
        if attempt.receipt is not None and not _same(attempt.receipt, receipt):
            defects.append(f"{attempt} was acknowledged as {attempt.receipt} and is recorded as {receipt}")
    return Model(commits), defects


def _same(told: Receipt, recorded: Receipt) -> bool:
    """Whether a client was told what is recorded; a cache that took the commit may stand there as well."""
    stores = told.stores[: len(recorded.stores)]
    return replace(told, replayed=False, stores=stores) == recorded


def _wrong_expectations(history: History, model: Model) -> list[str]:
    defects = []
    for version, attempt in enumerate(model.commits, start=1):
        if not model.meets(attempt.expected, version - 1):
            defects.append(f"{attempt} made version {version} against its expectations {attempt.expected}")
    defects += [
        f"{attempt} was refused for a conflict that never was"
        for attempt in history.attempts.values()
        if isinstance(attempt.error, VersionConflict) and not _conflicted(attempt, attempt.error, model)
    ]
    return defects


def _conflicted(attempt: Attempt, error: VersionConflict, model: Model) -> bool:
    """Whether at some version, from when it was sent, things were as the conflict says."""
    there = dict(attempt.expected)
    there |= {key: conflict["found"]["version"] for key, conflict in error.conflicts.items()}
    return any(
        model.meets(there, version) and not model.meets(attempt.expected, version)
        for version in range(attempt.floor, model.head + 1)
    )


async def _wrong_values(store: Store, own: History, model: Model) -> list[str]:
    """Live values and histories, compared with the log replayed."""
    defects = []
    found = await own.snapshot(store, "judge", model.keys)
    assert found is not None, "the servers do not answer the judge"
    for key in model.keys:
        expected = model.at(key, model.head)
        if found.seen[key] != expected:
            defects.append(f"{key!r} holds {found.seen[key]} in a snapshot, and {expected} was committed")
        await own.read(store, "judge", key)
        told = [(revision.version, revision.content) for revision in await _history(store, key)]
        contents = [
            (version, model.commits[version - 1].contents(own.namespace)[key])
            for version, _ in model.history(key)
        ]
        if told != contents:
            defects.append(f"the history of {key!r} is {told}, and {contents} was committed")
    return defects


async def _history(store: Store, key: str) -> list[Revision]:
    """The key's revisions; none where it was only ever deleted."""
    try:
        return await store.history(key)
    except KeyNotFound:
        return []


async def _wrong_old_values(store: Store, model: Model) -> list[str]:
    """Values of earlier versions; some of them, since there may be thousands."""
    defects = []
    values = [(key, *revision) for key in model.keys for revision in model.history(key) if revision[1]]
    for key, version, marker in random.Random(0).sample(values, min(OLD_VERSIONS, len(values))):
        try:
            entry = await store.read(key, version)
            found = entry.version, marker_of(entry.data, store.namespace, key)
        except (SomactlError, ValueError) as exc:
            defects.append(f"{key!r} at version {version} cannot be read: {exc!r}")
            continue
        if found != (version, marker):
            defects.append(f"{key!r} at version {version} is {found}, and marker {marker} was committed")
    return defects


def _wrong_looks(looks: Sequence[Look], model: Model, stale_seconds: float | None) -> list[str]:
    """Everything seen during the run was a committed state, and no client saw time run backwards."""
    defects = []
    reached: dict[str, int] = {}
    for look in looks:
        least = max(look.floor, reached.get(look.client, 0))
        if look.version is not None and not look.degraded:
            defects += _wrong_snapshot(look, least, model)
            reached[look.client] = max(least, look.version)
            continue
        for key in look.seen:
            version = _explained(look, key, least, model)
            if version is not None:
                reached[look.client] = version
            elif stale_seconds is None:
                defects.append(f"{look} was not there from version {least} on")
            else:
                defects += _too_old(look, key, model, stale_seconds)
    return defects


def _wrong_snapshot(look: Look, least: int, model: Model) -> list[str]:
    assert look.version is not None
    if not least <= look.version <= model.head:
        return [f"{look} is not of the versions {least} to {model.head}"]
    wrong = {key: model.at(key, look.version) for key in look.seen}
    return (
        [] if look.seen == wrong else [f"{look} shows what was not there: version {look.version} is {wrong}"]
    )


def _explained(look: Look, key: str, least: int, model: Model) -> int | None:
    """The first version, from `least` on, at which the key held what was seen."""
    for first, last in model.periods(key, look.seen[key]):
        if least <= last:
            return max(first, least)
    return None


def _too_old(look: Look, key: str, model: Model, seconds: float) -> list[str]:
    """A cached value must have been committed, and not superseded for longer than `seconds`.

    When a commit took effect is known only to have been before its client was told.
    """
    periods = list(model.periods(key, look.seen[key]))
    if not periods:
        return [f"{look} was never committed"]
    superseded = int(periods[-1][1]) + 1
    known = [c.ended for c in model.commits[superseded - 1 :] if c.outcome == "acknowledged"]
    if known and look.began > known[0] + seconds:
        return [f"{look} was superseded by version {superseded} {look.began - known[0]:.3f} s before"]
    return []


async def _late_arrivals(store: Store, history: History, settled: dict[str, CommitState]) -> list[str]:
    """An aborted commit that arrives after all is refused; a server that is late says so when asked again."""
    defects = []
    patient = Retrying(store, seconds=10.0)
    for commit_id in _some([commit_id for commit_id, state in settled.items() if state == "aborted"]):
        attempt = history.attempts[commit_id]
        try:
            receipt = await patient.commit_matrix_update(
                attempt.envelopes(history.namespace),
                CommitMetadata(),
                attempt.expected or None,
                commit_id=commit_id,
            )
            defects.append(f"{attempt} was aborted, and made version {receipt.version} when sent again")
        except CommitAborted:
            continue
        except SomactlError as exc:
            defects.append(f"{attempt} was aborted, and sent again it is {exc!r}")
    return defects


def _some(commit_ids: Sequence[str]) -> list[str]:
    return random.Random(0).sample(list(commit_ids), min(30, len(commit_ids)))


async def _next_commit(store: Store, history: History, own: History, model: Model) -> list[str]:
    attempt = await own.commit(store, f"after-{len(history.attempts)}", {"after": model.head + 1})
    history.attempts[attempt.commit_id] = attempt
    if attempt.receipt is None or attempt.receipt.version != model.head + 1:
        return [f"after all this, {attempt} should have made version {model.head + 1}"]
    return []

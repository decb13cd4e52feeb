"""Events: what each commit tells, and how far that was published.

The record of a commit is its event. It is written in the commit's transaction, has its version, and goes by
`compact` alone: so there is an event for every commit and none without one, and no second table to keep in
step. A store brings records in the order of versions; what they say is read here, once for all stores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from somactl.errors import StoreDamaged, VersionConflict
from somactl.store.model import CommitMetadata, CommitRecord, Event, EventPage, Receipt, VerdictSummary
from somactl.suggestion import run

MAX_KEEP_EVENTS = 1_000_000_000
PAGE_EVENTS = 1000
"""The most that one page has."""


class Detail(msgspec.Struct, frozen=True, omit_defaults=True):
    """What every record of a commit keeps as JSON, all of it known to the client before the commit.

    `keys`, `incarnation` and `noops` stand in it where the store has no place of their own for them.
    """

    keys: Mapping[str, str | None] = {}
    user: Mapping[str, str] = {}
    verdicts: Mapping[str, Mapping[str, Any]] = {}
    command: str = ""
    idempotency_key: str | None = None
    grace: float | None = None
    facts: Mapping[str, Any] = {}
    dark: bool = False
    summary: VerdictSummary | None = None
    incarnation: str = ""
    noops: tuple[str, ...] = ()


_decode_detail = msgspec.json.Decoder(Detail).decode
_METADATA = ("user", "verdicts", "command", "idempotency_key", "grace", "facts", "dark")
_FROM_BEST = ("valid", "clampable", "undecided", "violated")


def encode(metadata: CommitMetadata, summary: VerdictSummary | None, **own: Any) -> str:
    """The detail of a commit as JSON; `own` are further fields of it."""
    known = {name: getattr(metadata, name) for name in _METADATA}
    return msgspec.json.encode(Detail(**known, summary=summary, **own)).decode()


def decode(commit_id: str, text: str | bytes | None) -> Detail:
    """Raises StoreDamaged."""
    try:
        return _decode_detail(text or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise StoreDamaged(f"the record of commit {commit_id} is not what was written ({exc})") from exc


def committed(receipt: Receipt, detail: Detail) -> CommitRecord:
    """The record of a commit that was made."""
    metadata = CommitMetadata(**{name: getattr(detail, name) for name in _METADATA})
    return CommitRecord(receipt.commit_id, "committed", receipt.committed_at, receipt, metadata)


def summarise(verdicts: Iterable[Mapping[str, Any]]) -> VerdictSummary | None:
    """What a record keeps of the verdicts of its rho values; None where there is none."""
    found = list(verdicts)
    if not found:
        return None
    errors, bounds = _numbers(found, "trace_error"), _numbers(found, "lambda_min_lower")
    psd = [True if each["status"] == "valid" else each.get("psd_ok") for each in found]
    return VerdictSummary(
        max((str(each["status"]) for each in found), key=_FROM_BEST.index),
        max(errors, default=None),
        min(bounds, default=None),
        psd_ok=False if False in psd else None if None in psd else True,
        admitted_dark=any(each.get("dark") is True for each in found),
    )


def _numbers(verdicts: Iterable[Mapping[str, Any]], name: str) -> list[float]:
    found = (verdict.get(name) for verdict in verdicts)
    return [float(each) for each in found if isinstance(each, int | float)]


def event(
    version: int,
    commit_id: str,
    recorded_at: float,
    detail: str | bytes,
    *,
    incarnation: str | None = None,
    keys: Mapping[str, str | None] | None = None,
) -> Event:
    """The event of a record. `detail` is its JSON, with all in it that is not given apart from it.

    Raises StoreDamaged.
    """
    told = decode(commit_id, detail)
    contents = told.keys if keys is None else keys
    incarnation = incarnation or told.incarnation
    return Event(version, incarnation, commit_id, recorded_at, contents, told.summary, told.dark)


def page(
    after: int, incarnation: str, head: int, events: Sequence[Event], *, looked: int | None = None
) -> EventPage:
    """The page whose first events these are, in their order. It ends before a gap, which the next one tells.

    looked  up to which version there are no others; None: up to the head
    """
    if not events:
        last = max(head if looked is None else looked, after)
        return EventPage(incarnation, max(head, last), last, (), (after + 1, last) if last > after else None)
    first = events[0].version
    whole = [each for number, each in enumerate(events) if each.version == first + number]
    gone = (after + 1, first - 1) if first > after + 1 else None
    last = whole[-1].version
    return EventPage(incarnation, max(head, last), last, tuple(whole), gone)


def refuse_unreached(version: int, head: int, incarnation: str, expected: str | None = None) -> None:
    """Raise VersionConflict for a version that the namespace never reached, or not in this incarnation."""
    if expected is not None and expected != incarnation:
        what = f"the namespace has incarnation {incarnation}, where {expected} was expected"
    elif version > head:
        what = f"version {version} was never reached here, where {head} is the newest"
    else:
        return
    raise VersionConflict(
        f"{what}: it is another namespace's, or a backup was restored",
        conflicts={},
        hint="read the events again from what is published here",
        next=[run("events status"), run("doctor")],
    )

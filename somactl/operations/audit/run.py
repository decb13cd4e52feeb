"""Audit a whole namespace, or a shard of it: lease, ledger, passes, and what the report says of coverage.

A full audit is one pass over all keys. An incremental one has two: the first proves what changed since it was
last proven (by version) and what is known to be bad, the second reads again a share of the rest, longest
unread first. What a pass has done is kept every few seconds, in an order that a crash can cut anywhere: known
bad keys before the ledger that leaves them out, and both before the checkpoint.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import fields, replace

from somactl.core.quantities import Part, Share, Size
from somactl.errors import (
    LockHeld,
    PlanStale,
    SomactlError,
    StoreUnavailable,
    TargetRefused,
    UsageError,
)
from somactl.operations.audit import lease as leases
from somactl.operations.audit.cycle import Cycle
from somactl.operations.audit.lease import Lease, OnOverlap, RunState
from somactl.operations.audit.ledger import Cursor, Run, Span
from somactl.operations.audit.model import Check, Proven
from somactl.operations.audit.pages import PAGE_KEYS, Bounds, Page, Wanted, everything, named, pages
from somactl.operations.audit.proofs import FAIL_FAST, Proofs
from somactl.operations.audit.records import Records
from somactl.operations.jobs.wire import Wire, identity, to_wire
from somactl.report import Coverage, VerifyReport
from somactl.store.contract import Stat, Store
from somactl.suggestion import again

SAVE_SECONDS = 5.0
_OWN = ("scope", "jobs", "allow_empty", "warnings", "store", "namespace")
"""What the report of a run that goes on with another one has of its own."""


@dataclass(frozen=True, slots=True)
class AuditRequest:
    """Which matrices of a namespace are to be proven.

    scope        the name of the range: `all`, or a shard such as `2-of-8`, whose keys are `bounds`
    incremental  what changed since it was last proven, and what is known to be bad; not all
    recheck      how much of the rest is read again, at least
    known_bad    only what earlier audits have found
    accepted     the digest of what is accepted, which is counted apart
    resume       go on where a run of the same request was ended
    """

    check: Check
    scope: str = "all"
    bounds: Bounds = field(default_factory=Bounds)
    incremental: bool = False
    recheck: Part = field(default_factory=partial(Share, 0.0))
    known_bad: bool = False
    accepted: str | None = None
    resume: bool = False
    on_overlap: OnOverlap = "fail"
    waiting: Callable[[str], None] = lambda sentence: None


class _AuditWire(Wire, frozen=True, kw_only=True):
    """What has to be the same for a run to go on with another one's work."""

    method: str
    tolerances: dict[str, float]
    incremental: bool = False
    recheck: str = "0%"
    after: str | None = None
    upto: str | None = None


class StoreTime:
    """The time by the store's clock, asked for once and carried on by this process's own."""

    def __init__(self, now: float) -> None:
        self._ahead = now - time.monotonic()

    def __call__(self) -> float:
        return self.at(time.monotonic())

    def at(self, moment: float) -> float:
        """The store's time at that moment of `time.monotonic`."""
        return self._ahead + moment


async def audit_all(store: Store, records: Records, request: AuditRequest, proofs: Proofs) -> None:
    """Prove what is asked for of the namespace; what came of it stands in the report of `proofs`.

    Raises LockHeld where another audit of the same keys is at work, NamespaceNotFound, StoreUnavailable.
    """
    audit = _Audit(store, records, request, proofs, StoreTime(await store.clock()))
    await audit.run()


class _Audit:
    """One run."""

    def __init__(
        self, store: Store, records: Records, request: AuditRequest, proofs: Proofs, now: StoreTime
    ) -> None:
        self.store, self.records, self.request, self.proofs, self.now = store, records, request, proofs, now
        self.report = proofs.report
        self.coverage = Coverage()
        self.lease: Lease | None = None
        self.phase: leases.Phase = "all"
        self.proven_here: Bounds | None = None  # the range of this process's own first pass
        self.total = 0
        self.began = self.audit_began = now()
        self.read = Run(self.began, self.began, 0, 0)
        self._saved = time.monotonic()

    async def run(self) -> None:
        head = await self.store.head()
        self.version, self.incarnation = head.version, head.incarnation
        await self.records.load(head.incarnation)
        await self._doubt_the_ledger()
        if self.request.known_bad:
            await self._go(self._known_bad)
            return
        try:
            await self._take_lease()
        except LockHeld as exc:
            if self.request.on_overlap != "skip":
                raise
            self.report.warnings.append(exc.message)
            self.proofs.ended_by = "--on-overlap skip"
            return
        if self.lease is None:
            await self._go(self._passes)
            return
        async with self.lease.renewed():
            self._adopt(self.lease.state)
            await self._go(self._passes)

    async def _doubt_the_ledger(self) -> None:
        """Begin it anew where it cannot be about the namespace as it is, which a copy may have replaced."""
        ledger = self.records.ledger
        why = ledger.cannot_be(self.version, self.now())
        if why is not None:  # or another audit has proven meanwhile what was written meanwhile
            why = ledger.cannot_be((await self.store.head()).version, self.now())
        if why is not None:
            await self.records.begin_anew(why)

    async def _take_lease(self) -> None:
        """Take the lease, where there is a place for it. Raises LockHeld."""
        if self.records.notes is None:
            return
        request = self.request
        taking = leases.take(
            self.records.notes,
            request.scope,
            self._begin,
            now=self.now,
            wait=request.on_overlap == "wait",
            talk=request.waiting,
        )
        self.lease = await self.records.attempt(taking)
        if isinstance(self.records.failure, TargetRefused):
            raise self.records.failure  # a file that was named for it

    def _begin(self, left: RunState | None) -> RunState:
        """The state to begin with, given what an earlier run has left."""
        fresh = RunState(
            request=self._identity(),
            incarnation=self.incarnation,
            holder=leases.holder(),
            since=self.began,
            began=self.began,
            until=self.now() + leases.LEASE_SECONDS,
            accepted=self.request.accepted,
        )
        if left is None or left.report is None or not self.request.resume:
            return fresh
        if left.incarnation != self.incarnation:
            self.request.waiting("the namespace was given another incarnation: the audit begins anew")
            return fresh
        if left.accepted != fresh.accepted and left.report.results:  # which another file has judged
            self.request.waiting("other findings are accepted than were then: the audit begins anew")
            return fresh
        if left.request != fresh.request:
            raise UsageError(
                "the audit that was ended had been asked for otherwise, so this one cannot go on with it",
                hint="give it the same options, or begin anew",
                next=again(resume=None),
            )
        return replace(fresh, phase=left.phase, report=left.report, began=left.began)

    def _identity(self) -> str:
        request = self.request
        wire = _AuditWire(
            method=request.check.method,
            tolerances=asdict(request.check.tolerances),
            incremental=request.incremental,
            recheck=str(request.recheck),
            after=request.bounds.after,
            upto=request.bounds.upto,
        )
        return identity("audit", to_wire(wire))

    def _adopt(self, state: RunState) -> None:
        """Go on with what an earlier run has counted."""
        self.phase = state.phase
        if state.report is None:
            return
        own = {name: getattr(self.report, name) for name in _OWN}
        for each in fields(VerifyReport):
            setattr(self.report, each.name, own.get(each.name, getattr(state.report, each.name)))
        self.report.resumed, self.audit_began = True, state.began
        self.coverage = state.report.coverage or self.coverage
        self.proofs.done += 1

    async def _go(self, work: Callable[[], Awaitable[None]]) -> None:
        self.report.warnings += self.records.warnings
        self.report.coverage = self.coverage
        self.report.version_started = self.report.version_started or self.version
        try:
            self.total = (await self.store.summary()).keys
            await work()
            if not self.proofs.ended_by:
                await self._refuse_another_incarnation()
        finally:
            await _whole(self._end())

    async def _refuse_another_incarnation(self) -> None:
        try:
            if (await self.store.head()).incarnation != self.incarnation:
                raise _another_incarnation()
        except SomactlError as exc:
            self.proofs.fail(exc)

    async def _known_bad(self) -> None:
        """Check again, under their names, the keys that are known to be bad."""
        self.proofs.total = len(self.records.known_keys)
        await self.proofs.prove(named(self.store, self.records.known_keys), self._noted)

    async def _passes(self) -> None:
        request, proofs = self.request, self.proofs
        recheck = request.incremental and request.recheck != Share(0.0)
        if request.bounds.is_empty:
            self.phase = "recheck"
        if self.phase == "all":
            self.report.reached = self.report.reached or ""
            rest = Bounds(self.report.reached or request.bounds.after, request.bounds.upto)
            self.proven_here, proofs.total = rest, self.total
            await proofs.prove(pages(self.store, rest, wanted=self._wanted()), self._noted)
            if self.phase == "all":
                return
        proofs.excuse("--max-duration")  # which came too late to matter
        if not recheck:
            proofs.excuse("a signal")
        elif not proofs.ended_by:
            proofs.total = None
            await proofs.prove(self._rechecks(), self._noted)
            self.coverage.recheck_ended_by = proofs.excuse("--max-duration")

    def _wanted(self) -> Wanted:
        """Which keys the first pass proves."""
        if not self.request.incremental:
            return everything
        cursor, known = self.records.ledger.cursor(), self.records.known_before

        def wanted(stat: Stat) -> bool:
            proven = cursor.at(stat.key).version
            return proven is None or stat.version > proven or stat.key in known

        return wanted

    async def _rechecks(self) -> AsyncGenerator[Page, None]:
        """Pages of what is to be read again, without what the first pass has just read."""
        request, part, coverage = self.request, self.request.recheck, self.coverage
        by_bytes, left = isinstance(part, Size), 0
        spans = [span for span in self.records.ledger.recheck() if self._is_unread(span)]
        cycle = None
        if isinstance(part, Size):
            left = part.bytes_ - coverage.rechecked_bytes
        else:
            cycle = Cycle(self.records.ledger.runs, part.fraction, request.scope)
            keys = part.of(coverage.changed + coverage.unchanged)
            left = max(keys - coverage.rechecked, cycle.due(spans))
        for span in spans:
            promised = cycle is not None and cycle.runs_left(span.read_at) == 1
            if left <= 0 and not promised:
                return
            async with aclosing(self._again(span, PAGE_KEYS if by_bytes or promised else left)) as found:
                async for page in found:
                    yield page
                    left -= page.bytes_ if by_bytes else page.keys
                    if left <= 0 and not promised:
                        break

    def _is_unread(self, span: Span) -> bool:
        """Whether it has keys of this audit's, and was not read since that began."""
        inside = self.request.bounds.within(span.after, span.upto)
        return inside is not None and (span.read_at is None or span.read_at < self.audit_began)

    def _again(self, span: Span, most: int) -> AsyncGenerator[Page, None]:
        """The pages of a span, of `most` keys each."""
        inside = self.request.bounds.within(span.after, span.upto)
        assert inside is not None
        wanted = self._not_just_proven(self.records.before.cursor())
        return pages(self.store, inside, wanted=wanted, recheck=True, page_keys=min(PAGE_KEYS, most))

    def _not_just_proven(self, cursor: Cursor) -> Wanted:
        """Which keys the second pass reads: all but those that the first pass of this process has read."""
        known, here = self.records.known_before, self.proven_here

        def wanted(stat: Stat) -> bool:
            proven = cursor.at(stat.key).version
            if here is None or not here.has(stat.key):
                return True
            changed = proven is None or stat.version > proven
            return not (stat.key in known or (changed and stat.version <= self.version))

        return wanted

    async def _noted(self, page: Page, proven: Proven) -> None:
        if self.lease is not None and self.lease.lost is not None:
            raise self.lease.lost
        if proven.incarnation not in ("", self.incarnation):
            raise _another_incarnation()
        if proven.incarnation and proven.version < self.version:
            raise _an_older_state(proven.version, self.version)
        self._count(page, proven)
        # What the first pass has proven of a page that is read again is older than the page.
        read_at = self.began if page.recheck else self.now.at(page.listed_at)
        self.records.note(page, proven, version=self.version, read_at=read_at, now=self.now())
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            await self._save()

    def _count(self, page: Page, proven: Proven) -> None:
        count, coverage = len(page.task.keys) - len(proven.absent), self.coverage
        if page.recheck or not self.request.incremental:  # what changed may be the same keys every night
            self.read = replace(self.read, keys=self.read.keys + count, bytes=self.read.bytes + proven.bytes_)
        if page.recheck:
            coverage.rechecked += count
            coverage.rechecked_bytes += proven.bytes_
            return
        coverage.changed += count
        coverage.unchanged += page.keys - len(page.task.keys)
        if page.bounds is None:
            coverage.gone += len(page.absent) + len(proven.absent)
            return
        self.report.reached = page.bounds.upto
        if page.bounds.upto == self.request.bounds.upto:
            self.phase, self.report.reached = "recheck", None

    async def _save(self) -> None:
        """Keep what was done: the ledger and the bad keys first, then the checkpoint that relies on them.

        A page that --fail-fast ended is counted in part: there the checkpoint before it stays.
        """
        await self.records.save()
        if self.lease is not None and not self.records.lost and self.proofs.ended_by != FAIL_FAST:
            saving = self.lease.save(phase=self.phase, report=_without_vectors(self.report))
            await self.records.attempt(saving)
        self._saved = time.monotonic()

    async def _end(self) -> None:
        """Keep what was done, let go of the lease, and say what is covered."""
        if not self.request.known_bad and (self.read.keys or not self.proofs.ended_by):
            self.records.ledger = self.records.ledger.ran(self._as_noted())
        try:
            await self._save()
            if self.lease is not None and not self.records.lost:
                await self.records.attempt(self.lease.release(finished=not self.proofs.ended_by))
        except LockHeld as exc:
            self.proofs.fail(exc)
        self._tell()

    def _as_noted(self) -> Run:
        """This run as the ledger notes it."""
        part, ended = self.request.recheck, self.proofs.ended_by or self.coverage.recheck_ended_by
        share = part.fraction if self.request.incremental and isinstance(part, Share) and not ended else 0.0
        return replace(self.read, ended_at=self.now(), share=share, scope=self.request.scope)

    def _tell(self) -> None:
        ledger, coverage, now = self.records.ledger, self.coverage, self.now()
        coverage.not_kept = self.records.lost or None
        coverage.kept_in = "" if self.records.lost else self.records.place
        coverage.known_bad = len(self.records.known)
        oldest = ledger.oldest_read
        coverage.share_read = ledger.share_read(self.total) if oldest is None else 1.0
        coverage.oldest_unread_seconds = None if oldest is None else max(0.0, now - oldest)
        coverage.cycle_seconds = ledger.cycle_seconds(ledger.keys)
        if coverage.recheck_ended_by:
            self.report.warnings.append(
                f"{coverage.recheck_ended_by} ended the reading of {self.request.recheck} of the rest, which "
                f"the next run goes on with; {coverage.rechecked} matrices were read again"
            )


def _without_vectors(report: VerifyReport) -> VerifyReport:
    """A copy as a checkpoint keeps it: of a thousand witnesses, it has no room for the components."""
    results = [
        each if each.verdict is None else replace(each, verdict=each.verdict.without_vector())
        for each in report.results
    ]
    return msgspec.json.decode(msgspec.json.encode(replace(report, results=results)), type=VerifyReport)


def _another_incarnation() -> PlanStale:
    return PlanStale(
        "the namespace was given another incarnation meanwhile: what was proven was of the old one",
        hint="begin anew",
        next=again(resume=None),
    )


def _an_older_state(read: int, begun: int) -> StoreUnavailable:
    return StoreUnavailable(
        f"what was read is the namespace at version {read}, and the audit began at version {begun}: a "
        "replica or a copy answered, which proves nothing of what was written since",
        hint="let every worker read the store itself",
    )


async def _whole(work: Coroutine[Any, Any, None]) -> None:
    """Do `work` to its end, also where this task is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task

"""Audit a whole namespace, or a shard of it: lease, ledger, passes, and what the report says of coverage.

A full audit is one pass over all keys. An incremental one has two: the first proves what changed since it was
last proven (by version) and what is known to be bad, the second reads again a share of the rest, longest
unread first. What a pass has done is kept every few seconds, in an order that a crash can cut anywhere: known
bad keys before the ledger that leaves them out, and both before the checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from functools import partial

from msgspec.structs import fields, replace

from somactl.core.quantities import Part, Share, Size
from somactl.errors import PlanStale, UsageError
from somactl.operations.audit import lease as leases
from somactl.operations.audit.lease import Lease, OnOverlap, RunState
from somactl.operations.audit.ledger import Cursor, Run
from somactl.operations.audit.model import Check, Proven
from somactl.operations.audit.pages import PAGE_KEYS, Bounds, Page, Wanted, everything, named, pages
from somactl.operations.audit.proofs import Proofs
from somactl.operations.audit.records import Records
from somactl.operations.jobs.wire import Wire, identity, to_wire
from somactl.report import Coverage, VerifyReport
from somactl.store.contract import Stat, Store
from somactl.suggestion import again

SAVE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class AuditRequest:
    """Which matrices of a namespace are to be proven.

    scope        the name of the range: `all`, or a shard such as `2-of-8`, whose keys are `bounds`
    incremental  what changed since it was last proven, and what is known to be bad; not all
    recheck      how much of the rest is read again, at least
    known_bad    only what earlier audits have found
    resume       go on where a run of the same request was ended
    """

    check: Check
    scope: str = "all"
    bounds: Bounds = field(default_factory=Bounds)
    incremental: bool = False
    recheck: Part = field(default_factory=partial(Share, 0.0))
    known_bad: bool = False
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
        self.began = now()
        self.read = Run(self.began, self.began, 0, 0)
        self._saved = time.monotonic()

    async def run(self) -> None:
        head = await self.store.head()
        self.version, self.incarnation = head.version, head.incarnation
        await self.records.load(head.incarnation)
        self.report.warnings += self.records.warnings
        if self.request.known_bad:
            await self._known_bad()
            return
        if self.records.notes is not None and not await self._take_lease():
            self.proofs.ended_by = "--on-overlap skip"
            return
        if self.lease is None:
            await self._go()
            return
        async with self.lease.renewed():
            self._adopt(self.lease.state)
            await self._go()

    async def _known_bad(self) -> None:
        """Check again, under their names, the keys that are known to be bad."""

        async def noted(page: Page, proven: Proven) -> None:
            self.records.note(page, proven, version=self.version, read_at=self.now.at(page.listed_at))

        self.report.coverage, self.report.version_started = self.coverage, self.version
        await self.proofs.prove(named(self.store, self.records.known_keys), noted)
        await self.records.save()
        self._tell()

    async def _take_lease(self) -> bool:
        """False where another audit is at work, and this one is to be skipped for that."""
        assert self.records.notes is not None
        taking = leases.take(
            self.records.notes,
            self.request.scope,
            self._begin,
            now=self.now,
            on_overlap=self.request.on_overlap,
            waiting=self.request.waiting,
        )
        self.lease = await self.records.attempt(taking)
        return self.lease is not None or self.records.notes is None

    def _begin(self, left: RunState | None) -> RunState:
        """The state to begin with, given what an earlier run has left."""
        fresh = RunState(
            request=self._identity(),
            holder=leases.holder(),
            since=self.now(),
            until=self.now() + leases.LEASE_SECONDS,
        )
        if left is None or left.report is None or not self.request.resume:
            return fresh
        if left.request != fresh.request:
            raise UsageError(
                "the audit that was ended had been asked for otherwise, so this one cannot go on with it",
                hint="give it the same options, or begin anew",
                next=again(resume=None),
            )
        return replace(fresh, phase=left.phase, reached=left.reached, report=left.report)

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
        return identity("audit", to_wire(wire), self.incarnation)

    def _adopt(self, state: RunState) -> None:
        """Go on with what an earlier run has counted."""
        self.phase = state.phase
        if state.report is not None:
            for each in fields(VerifyReport):
                setattr(self.report, each.name, getattr(state.report, each.name))
            self.report.resumed = True
            self.coverage = state.report.coverage or self.coverage

    async def _go(self) -> None:
        self.report.coverage = self.coverage
        self.report.version_started = self.report.version_started or self.version
        self.proofs.total = (await self.store.summary()).keys
        try:
            await self._passes()
        finally:
            await self._end()

    async def _passes(self) -> None:
        request, proofs = self.request, self.proofs
        if self.phase == "all":
            bounds = Bounds(self.report.reached or request.bounds.after, request.bounds.upto)
            if not await proofs.prove(pages(self.store, bounds, wanted=self._wanted()), self._noted):
                return
        if request.incremental and request.recheck.of(1 << 40):
            self.phase = "recheck"
            proofs.total = None
            if not await proofs.prove(self._rechecks(), self._noted) and proofs.error is None:
                self.coverage.recheck_ended_by, proofs.ended_by = proofs.ended_by, ""
        self.report.reached = None

    def _wanted(self) -> Wanted:
        """Which keys the first pass proves."""
        if not self.request.incremental:
            return everything
        cursor, known = self.records.ledger.cursor(), self.records.known

        def wanted(stat: Stat) -> bool:
            proven = cursor.at(stat.key).version
            return proven is None or stat.version > proven or stat.key in known

        return wanted

    async def _rechecks(self) -> AsyncGenerator[Page, None]:
        """Pages of what is to be read again, without what the first pass has just read."""
        request, ledger = self.request, self.records.ledger
        by_bytes = isinstance(request.recheck, Size)
        done = self.coverage.rechecked_bytes if by_bytes else self.coverage.rechecked
        keys = self.coverage.changed + self.coverage.unchanged
        budget = request.recheck.of(ledger.bytes if by_bytes else keys) - done
        spans = ledger.recheck(bytes=budget) if by_bytes else ledger.recheck(keys=budget)
        for span in spans:
            inside = request.bounds.within(span.after, span.upto)
            left = span.most or 0
            if inside is None:
                continue
            cursor = self.records.before.cursor()
            size = PAGE_KEYS if by_bytes else max(1, min(PAGE_KEYS, left))
            listed = pages(self.store, inside, wanted=self._unproven(cursor), recheck=True, page_keys=size)
            async with aclosing(listed) as found:
                async for page in found:
                    yield page
                    left -= page.bytes_ if by_bytes else page.keys
                    if span.most is not None and left <= 0:
                        break

    def _unproven(self, cursor: Cursor) -> Wanted:
        known = self.records.known_before

        def wanted(stat: Stat) -> bool:
            proven = cursor.at(stat.key).version
            changed = proven is None or stat.version > proven
            return not (stat.key in known or (changed and stat.version <= self.version))

        return wanted

    async def _noted(self, page: Page, proven: Proven) -> None:
        if self.lease is not None and self.lease.lost is not None:
            raise self.lease.lost
        if proven.incarnation not in ("", self.incarnation):
            raise PlanStale("the namespace was given another incarnation meanwhile", next=again())
        count = len(page.task.keys) - len(proven.absent)
        if page.recheck:
            self.coverage.rechecked += count
            self.coverage.rechecked_bytes += proven.bytes_
        else:
            self.coverage.changed += count
            self.coverage.unchanged += page.keys - len(page.task.keys)
            self.report.reached = None if page.bounds is None else page.bounds.upto
        self.read = replace(self.read, keys=self.read.keys + count, bytes=self.read.bytes + proven.bytes_)
        # What the first pass has proven of a page that is read again is older than the page.
        read_at = self.began if page.recheck else self.now.at(page.listed_at)
        self.records.note(page, proven, version=self.version, read_at=read_at)
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            await self._save()

    async def _save(self) -> None:
        await self.records.save()
        if self.lease is not None:
            saving = self.lease.save(phase=self.phase, reached=self.report.reached, report=self.report)
            await self.records.attempt(saving)
        self._saved = time.monotonic()

    async def _end(self) -> None:
        """Keep what was done, let go of the lease, and say what is covered."""
        if self.read.keys:
            self.records.ledger = self.records.ledger.ran(replace(self.read, ended_at=self.now()))
        await self._save()
        if self.lease is not None:
            await self.records.attempt(self.lease.release(finished=not self.proofs.ended_by))
        self._tell()

    def _tell(self) -> None:
        ledger, coverage, now = self.records.ledger, self.coverage, self.now()
        keys = self.proofs.total or ledger.keys
        coverage.not_kept = self.records.lost or None
        coverage.kept_in = "" if self.records.lost else self.records.place
        coverage.known_bad = len(self.records.known)
        coverage.share_read = ledger.share_read(ledger.keys)
        oldest = ledger.oldest_read
        coverage.oldest_unread_seconds = None if oldest is None else max(0.0, now - oldest)
        coverage.cycle_seconds = ledger.cycle_seconds(keys)

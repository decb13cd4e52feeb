"""The audit command: verify-psd."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Annotated, Literal

import typer

from somactl.cli import inputs
from somactl.cli.auditing import Choice, Demanded, Kept, Machines
from somactl.cli.command import Session, command
from somactl.cli.pacing import PaceOptions
from somactl.cli.signals import impatient
from somactl.config import audit_run
from somactl.core.names import Pattern
from somactl.core.sampling import Reservoir, statement
from somactl.errors import NotFound, SomactlError, StoreUnavailable, UsageError
from somactl.operations.audit import copies, shards
from somactl.operations.audit.accepted import Accepted
from somactl.operations.audit.dask import Dask
from somactl.operations.audit.files import FileInput, prove_files
from somactl.operations.audit.finish import finish
from somactl.operations.audit.model import Check, Tally
from somactl.operations.audit.pages import Bounds, named, pages, sampled
from somactl.operations.audit.proofs import FAIL_FAST, Proofs
from somactl.operations.audit.records import Records
from somactl.operations.audit.run import AuditRequest, audit_all
from somactl.operations.audit.shards import Shard
from somactl.operations.audit.workers import Inline, Processes, Workers
from somactl.operations.jobs.checkpoint import Notes
from somactl.operations.jobs.notes_file import NotesFile
from somactl.report import Acceptance, Checked, Report, VerifyReport
from somactl.report.evidence import write_evidence
from somactl.store.cached import CachedStore, cached
from somactl.store.contract import Stat, Store
from somactl.store.wrapper import ReadOnly
from somactl.suggestion import again, run

FEW = 2048
"""Up to so many keys are proven in the process itself: it would take longer to start others."""

_FEW_ENTRIES = 10


@command(
    checks=True,
    pushes=True,
    epilog="Exit 0: all proven. 3: a finding. 4: nothing, or not all, was checked. 11: a file is no matrix. "
    "13: a store or a worker failed. 16: another audit is under way.",
)
async def verify_psd(
    session: Session,
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY]...", help="Exact keys.")] = None,
    file: Annotated[list[str], typer.Option("--file", metavar="FILE|-", help="Check a file instead.")] = [],  # noqa: B006
    *,
    choice: Choice,
    method: Annotated[
        Literal["certify", "eigen", "sampled"], typer.Option(help="certify proves; sampled can only refute.")
    ] = "certify",
    from_: Annotated[
        Literal["authority", "cache", "both"],
        typer.Option("--from", help="Where a cache is before the store: which of the two."),
    ] = "authority",
    witness: Annotated[
        bool, typer.Option("--witness", help="Report the vector that proves a violation.")
    ] = False,
    demanded: Demanded,
    machines: Machines,
    pace: PaceOptions,
    kept: Kept,
) -> Report:
    """Prove that density matrices are Hermitian, positive semi-definite and of trace 1."""
    choice.refuse_mixed(keys or [], file)
    kept.refuse_mixed(choice, from_)
    machines.refuse_mixed(choice, from_)
    if from_ == "cache" and pace.given:
        raise UsageError(
            f"a cache is read at once: --{next(iter(pace.given)).replace('_', '-')} is of the authority",
            next=again(from_=None),
        )
    check = Check(
        session.settings.tolerances,
        method=method,
        witness=witness,
        every=demanded.fail_fast or session.out.mode == "ndjson",
    )
    report = VerifyReport(
        method=method,
        allow_empty=demanded.allow_empty,
        scope=choice.scope(keys or [], file, from_),
        tolerances=asdict(check.tolerances),
    )
    each = session.out.item if session.out.mode == "ndjson" else lambda checked: None
    tally = Tally(report, each, fail_fast=demanded.fail_fast)
    audit = _Audit(session, choice, kept, pace, tally, check, machines, demanded.accepted())
    with nullcontext() if demanded.evidence is None else session.output_file(demanded.evidence) as evidence:
        try:
            with impatient():
                await audit.prove(keys or [], file, from_)
        except asyncio.CancelledError:
            audit.ended_by = "a signal"  # what was found is worth having; `command` adds the signal's code
        audit.finish(demanded)
        if evidence is not None:
            session.date(report)
            evidence.write(write_evidence(report))
            evidence.keep()
    return report


@dataclass(slots=True)
class _Audit:
    """One run of verify-psd."""

    session: Session
    choice: Choice
    kept: Kept
    pace: PaceOptions
    tally: Tally
    check: Check
    machines: Machines
    accepted: Accepted | None
    ended_by: str = ""
    error: SomactlError | None = None
    _found: list[tuple[str, str | None]] = field(default_factory=list)  # of the keys that are accepted

    @property
    def report(self) -> VerifyReport:
        return self.tally.report

    async def prove(self, keys: list[str], files: list[str], origin: str) -> None:
        """Files first, then what the store has, then what the cache has."""
        inputs_ = [FileInput(name, partial(inputs.read_file, name)) for name in files]
        if not await prove_files(inputs_, self.check, self.tally):
            self.ended_by = FAIL_FAST
        elif keys or self.choice.match is not None or self.choice.all_ or self.choice.only_known_bad:
            with _files_told_from_keys(keys, self.report):
                await self._prove_stored(keys, origin)

    async def _prove_stored(self, keys: list[str], origin: str) -> None:
        choice = self.choice
        whole = (choice.all_ and choice.sample is None) or choice.only_known_bad
        in_store = whole and self.kept.in_store and origin != "cache"
        async with self.session.store(read_only=not in_store, fills=False) as store:
            self.report.store, self.report.namespace = store.name, store.namespace
            pair = cached(store)
            if origin != "authority" and pair is None:
                raise UsageError(
                    f"--from {origin}: there is no cache", hint="name one with --cache or SOMACTL_CACHE"
                )
            if self.accepted is not None:
                self.tally.accept = partial(self._known, self.accepted, await store.clock())
            if origin != "cache":
                await self._prove_authority(pair.authority if pair else store, keys)
            if origin != "authority" and pair is not None and not self.ended_by:
                await self._prove_cache(pair, keys, origin)
        self.session.done.append(self.report)

    async def _prove_authority(self, store: Store, keys: list[str]) -> None:
        choice, reading = self.choice, ReadOnly(store)
        pace = self.pace.pace(self.session, reading)
        workers = await self._workers(reading, many=not keys)
        proofs = Proofs(workers, self.tally, pace, self.session.out.progress)
        try:
            if keys:
                await proofs.prove(named(reading, keys), absent_is_unreadable=True)
            if not proofs.ended_by and choice.sample is not None:
                await self._sample(reading, proofs)
            elif not proofs.ended_by and choice.match is not None:
                await proofs.prove(pages(reading, Bounds(), match=choice.match))
            elif not proofs.ended_by and (choice.all_ or choice.only_known_bad):
                await self._all(reading, store, proofs)
        finally:
            await workers.close()
        self.report.held_back_seconds = round(pace.held_back, 3)
        self.ended_by, self.error = proofs.ended_by, proofs.error

    async def _workers(self, store: Store, *, many: bool) -> Workers:
        from somactl.runtime import AuthorityOpener, RemoteOpener

        settings, jobs = self.session.settings, self.machines.processes
        if self.machines.dask is not None and many:
            cluster = await Dask.connect(self.machines.dask, RemoteOpener.of(settings), self.check)
            self.report.jobs = cluster.threads
            return cluster
        if not many or jobs == 1 or (await store.summary()).keys <= FEW:
            return Inline(store, self.check)
        self.report.jobs = jobs
        return Processes(AuthorityOpener(settings), self.check, jobs)

    async def _all(self, reading: Store, store: Store, proofs: Proofs) -> None:
        file, choice = self.kept.ledger, self.choice
        kept_in = None if file is None else NotesFile(file, store.namespace)
        notes = None if self.kept.no_ledger else kept_in or store
        records = Records(notes, self.check, place=file or "store")
        share, own = self.machines.share, Bounds()
        if share is not None:
            own = await self._shard(reading, share, notes)
        request = AuditRequest(
            self.check,
            scope="all" if share is None else share.scope,
            bounds=own,
            incremental=choice.incremental,
            recheck=choice.part,
            known_bad=choice.only_known_bad,
            accepted=None if self.accepted is None else self.accepted.digest,
            resume=self.kept.resume,
            on_overlap=self.kept.on_overlap,
            waiting=self.session.out.talk,
        )
        try:
            await audit_all(reading, records, request, proofs)
        finally:
            if kept_in is not None:
                await kept_in.close()

    async def _shard(self, store: Store, share: Shard, notes: Notes | None) -> Bounds:
        """The range of the shard, which the report tells."""
        found = await shards.bounds(store, share, notes, self.machines.run or audit_run())
        scope = self.report.scope
        assert scope is not None
        scope.shard, scope.plan = str(share), found.run
        scope.after, scope.upto = found.bounds.after, found.bounds.upto
        self.report.warnings += [found.warning] if found.warning else []
        return found.bounds

    async def _sample(self, store: Store, proofs: Proofs) -> None:
        assert self.choice.sample is not None
        seed, before = self.choice.drawn, self.report.valid + self.report.clampable
        drawn: Reservoir[Stat] = Reservoir(self.choice.sample, seed)
        await proofs.prove(sampled(store, Bounds(), self.choice.match, drawn))
        if not proofs.ended_by:
            report = self.report
            size = min(drawn.size, drawn.offered)
            bad = size - (report.valid + report.clampable - before)
            of = "the namespace" if self.choice.match is None else "what matches"
            report.statement = f"{statement(size, bad, drawn.offered, of=of)}; --seed {seed}"

    async def _prove_cache(self, pair: CachedStore, keys: list[str], origin: str) -> None:
        choice = self.choice
        many = choice.all_ or choice.match is not None
        pattern = Pattern("*" if choice.match is None else choice.match) if many else None
        going = await copies.prove_copies(pair.cache, keys, pattern, self.check, self.tally)
        if going and origin == "both":
            going = await copies.compare_copies(pair, keys, pattern, self.tally)
        if not going:
            self.ended_by = FAIL_FAST

    def _known(self, accepted: Accepted, now: float, checked: Checked) -> Acceptance | None:
        if checked.source in accepted:
            self._found.append((checked.source, checked.digest))
        return accepted.judge(checked.source, checked.digest, checked.outcome, now)

    def finish(self, demanded: Demanded) -> None:
        """Set the exit code, and the command to run next."""
        report = self.report
        finish(report, demanded.demands, ended_by=self.ended_by, error=self.error)
        report.next = self._next()
        if self.accepted is not None and self.choice.all_ and not self.ended_by:
            self._tell_unused(self.accepted)

    def _tell_unused(self, accepted: Accepted) -> None:
        """Say which entries of `--accept` are needed no more, unless only a part was looked at."""
        report, scope = self.report, self.report.scope
        if scope is None or scope.sample is not None or scope.shard is not None or scope.origin == "cache":
            return
        unused = accepted.unused([*self._found, *((each.source, each.digest) for each in report.results)])
        if unused:
            told = ", ".join(f"{entry.key!r} in line {entry.line}" for entry in unused[:_FEW_ENTRIES])
            more = ", ..." if len(unused) > _FEW_ENTRIES else ""
            report.warnings.append(
                f"{accepted.name}: of {len(unused)} entries nothing was found, so that they can be deleted: "
                f"{told}{more}"
            )

    def _next(self) -> str | None:
        """To end what was begun comes first; then what was found."""
        report, session = self.report, self.session
        error, coverage = self.error, report.coverage
        if self.ended_by not in ("", FAIL_FAST) and self.choice.all_ and coverage is not None:
            if error is None and coverage.kept_in:
                return session.line(again(resume=True))
            if isinstance(error, StoreUnavailable):  # its last checkpoint may be there, and its lease too
                return session.line(again(resume=True, on_overlap="wait"))
        if error is not None and error.next:
            return session.line(error.next[0])
        if report.violated or report.corrupt:
            return session.command("explain", "RHO_VIOLATION" if report.violated else "corrupt-value")
        if report.stale or report.contradicting:
            return session.command("cache-warm", reconcile=True)
        return None


@contextmanager
def _files_told_from_keys(keys: Sequence[str], report: VerifyReport) -> Iterator[None]:
    """Around the search for `keys`. Raises UsageError where none is there and files are so called: it was
    `--file` that was meant."""
    files = [key for key in keys if os.path.exists(key)]
    try:
        yield
    except NotFound:
        if not files:
            raise
        raise _meant_files(files) from None
    absent = {checked.source for checked in report.results if checked.outcome == "unreadable"}
    if files and absent.issuperset(keys):
        raise _meant_files(files)


def _meant_files(files: Sequence[str]) -> UsageError:
    return UsageError(
        f"{files[0]!r} is a file, and no key of the store: a file is checked with --file",
        next=run("verify-psd", file=files),
    )

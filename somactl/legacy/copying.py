"""All values of a source, batch by batch: looked at alone, copied into the store, or exactly as a plan says.

While one batch is committed the next one is read and examined. A batch that has begun is finished, whatever
signal comes, so that a stop always leaves a checkpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing

import msgspec

from somactl.errors import (
    CommitAborted,
    NamespaceNotFound,
    UsageError,
    VersionConflict,
)
from somactl.legacy import tally
from somactl.legacy.batches import (
    Batch,
    batches,
    list_names,
    one_ahead,
    until_told,
    values,
)
from somactl.legacy.context import MigrationContext, Progress
from somactl.legacy.journal import Journal, Page, State, encode, lock_held
from somactl.legacy.ownership import label_of_copy
from somactl.legacy.plan import Plan
from somactl.legacy.resuming import reclaim, recover, resolved_key
from somactl.legacy.source.workspace import Texts, Workspace, to_bytes
from somactl.legacy.staleness import PlannedRows, is_fresh, refuse_difference
from somactl.legacy.target import claim, compare
from somactl.operations.admission import Admitted
from somactl.operations.commit import verdicts_of
from somactl.report import MigrateReport, MigrationRow
from somactl.store.contract import CommitMetadata, Store
from somactl.store.request import new_commit_id
from somactl.suggestion import afresh, again

COMMAND = "migrate-json"
_ATTEMPTS = 5
_COPIED = ("copied", "finalized")
_UNFINISHED = {"finalizing": "finalize", "reverting": "revert", "forgetting": "forget"}


async def inspect(
    run: MigrationContext, emit: Callable[[Sequence[MigrationRow]], None] = lambda rows: None
) -> MigrateReport:
    """A dry run: what a copy would do now. `emit` gets every row, in the order of the source's keys.

    A namespace that does not exist yet is taken to be empty, and a warning says so.
    """
    report = run.report(dry_run=True)
    with Workspace() as workspace:
        await list_names(run.source, run.wishes.match, workspace.names)
        last: str | None = None

        async def work(stop: asyncio.Event) -> None:
            nonlocal last
            async with aclosing(_ahead(run, workspace, None, stop)) as ahead:
                async for batch in ahead:
                    last = batch.values[-1].key
                    claim(batch.rows, workspace.texts)
                    try:
                        await compare(run.store, batch.rows, run.migration)
                    except NamespaceNotFound:
                        _note_empty(report)
                    emit(batch.rows)
                    plain, rows = tally.split(batch.rows)
                    _count(run, report, Page("", "", len(batch.values), plain, rows))
                    _tell(run, report, batch, rows, len(workspace.names))

        stopped = await until_told(work)
        report.complete = _is_last(workspace, last)
        _finish(report, stopped=stopped)
    return report


def _note_empty(report: MigrateReport) -> None:
    if not report.warnings:
        report.warnings.append(
            f"namespace {report.namespace!r} does not exist yet, so nothing is taken to be there"
        )


async def copy(run: MigrationContext, *, resume: bool = False, plan: Plan | None = None) -> MigrateReport:
    """Copy every matrix that the store does not have; with `plan` exactly what it says.

    Raises UsageError where an earlier run was stopped and `resume` was not given; PlanStale, LockHeld, and
    what store and source raise. What was committed before stands, and `resume` goes on behind it.
    """
    journal = await Journal.open(run.store, run.migration)
    resumes = _resumes(journal, plan, resume=resume)
    if resumes:
        if journal.state.phase != "finalized":  # of what was taken out of the source, nothing is copied again
            await recover(run.store, journal)
        if run.words and not journal.state.words:  # it was begun before they were written down
            await journal.advance(words=list(run.words))
        if journal.state.phase in _COPIED:
            return await _done_before(run, journal)
    report = run.report(migration=journal.id, phase="copying", plan=plan.digest if plan else None)
    with Workspace() as workspace:
        await list_names(run.source, run.wishes.match, workspace.names)
        after = None
        if resumes:
            async for page in journal.pages(journal.state.first_page):
                _count(run, report, page)
                run.each(Progress(report.values, len(workspace.names), rows=page.rows))
                _claim_again(page, workspace.texts)
            after = await resolved_key(journal)
        last, planned = after, None
        if plan is not None:
            fresh, stopped = await _compared(run, workspace, PlannedRows(plan, after), after)
            if not fresh:
                report.complete = False
                if not resumes:  # so there is no migration yet
                    report.migration, report.phase = journal.id if journal.exists else None, "planned"
                _finish(report, stopped=stopped)
                return report
            planned = PlannedRows(plan, after)
        if not resumes:  # not before: a plan that is stale leaves nothing behind, and no run to be resumed
            await _begin(run, journal, plan)

        async def work(stop: asyncio.Event) -> None:
            nonlocal last
            async with aclosing(_ahead(run, workspace, after, stop)) as ahead:
                async for batch in ahead:
                    last = batch.values[-1].key
                    claim(batch.rows, workspace.texts)
                    page = await _copy_batch(run, journal, batch, planned, resumed=resume)
                    _count(run, report, page)
                    _tell(run, report, batch, page.rows, len(workspace.names))
            report.complete = _is_last(workspace, last)
            if report.complete:
                report.phase = "copied"
            state = journal.state
            await journal.advance(phase=report.phase, pages=state.pages + state.begun, begun=False)

        stopped = await until_told(work)
        _finish(report, stopped=stopped)
    return report


async def _done_before(run: MigrationContext, journal: Journal) -> MigrateReport:
    """The report of a pass that came to its end before, from its journal; the source is not read."""
    state = journal.state
    report = run.report(migration=journal.id, phase=state.phase, plan=state.plan)
    async for page in journal.pages(state.first_page):
        _count(run, report, page)
        run.each(Progress(report.values, None, rows=page.rows))
    report.warnings.append(
        f"migration {journal.id} was {state.phase} before, and nothing was left to resume; without --resume "
        "its source is looked at again"
    )
    _finish(report, stopped=False)
    return report


async def _compared(
    run: MigrationContext, workspace: Workspace, planned: PlannedRows, after: str | None
) -> tuple[bool, bool]:
    """Whether the plan was found to fit, and whether a signal kept that from being told. See `is_fresh`."""
    fresh = False

    async def work(stop: asyncio.Event) -> None:
        nonlocal fresh
        fresh = await is_fresh(run, workspace.names, planned, after, stop)

    stopped = await until_told(work)
    return fresh and not stopped, stopped


def _is_last(workspace: Workspace, key: str | None) -> bool:
    """Whether no key of the source comes behind `key`. Counting would not tell: a source that changed
    between a run and its resumption has other keys than were counted."""
    return next(workspace.names.pages(key, 1), None) is None


def _ahead(
    run: MigrationContext, workspace: Workspace, after: str | None, stop: asyncio.Event
) -> AsyncGenerator[Batch, None]:
    found = values(run.source, workspace.names, after, run.pace)
    return one_ahead(batches(found, run.examiner, run.pace, stop))


def _claim_again(page: Page, claims: Texts) -> None:
    for row in page.rows:
        if row.content and row.reason != "collision":
            claims.put(row.target, row.content)


def _resumes(journal: Journal, plan: Plan | None, *, resume: bool) -> bool:
    """Whether an earlier run is gone on with; False where a new pass over the source begins.

    One that was stopped is, but not with another plan: that was made since, and knows what is done. A plan
    that was carried out to its end is not stale for that: there is just nothing left of it.
    """
    if not journal.exists:
        return False
    state, digest = journal.state, plan.digest if plan else None
    if state.phase in _UNFINISHED:
        raise UsageError(
            f"migration {journal.id} is {state.phase}",
            hint="finish that first",
            next=afresh(**{_UNFINISHED[state.phase]: True}, migration=journal.id),
        )
    if resume and state.phase == "reverted":
        raise UsageError(
            f"migration {journal.id} is reverted: there is nothing to resume",
            hint="without --resume it is copied again",
            next=again(resume=None),
        )
    if resume and state.phase in _COPIED and digest in (None, state.plan):
        return True
    if state.phase != "copying" or (state.plan != digest and not resume):
        return False
    if not resume:
        raise UsageError(
            f"an earlier run of migration {journal.id} was stopped after {state.pages} batches",
            hint="go on where it stopped (--resume)",
            next=again(resume=True),
        )
    if state.plan != digest:
        raise UsageError(
            f"the earlier run of migration {journal.id} carried out {'a' if state.plan else 'no'} plan, and "
            f"this one is given {'another' if state.plan and digest else 'one' if digest else 'none'}",
            hint="resume it with what it was begun with, or begin anew without --resume",
        )
    return True


async def _begin(run: MigrationContext, journal: Journal, plan: Plan | None) -> None:
    """Begin a new pass over the source, whatever became of the one before."""
    digest = plan.digest if plan else None
    if not journal.exists:
        source, name, asked = run.source.identity, run.source.name, run.wishes.as_json()
        words = list(run.words)
        await journal.write(
            State(source=source, name=name, asked=asked, plan=digest, words=words, born=new_commit_id())
        )
        return
    await journal.recover()
    state = journal.state
    dead = state.pages if state.phase == "reverted" else state.dead
    words = list(run.words) or state.words
    await journal.advance(phase="copying", first_page=state.pages + 1, plan=digest, dead=dead, words=words)


async def _copy_batch(
    run: MigrationContext, journal: Journal, batch: Batch, planned: PlannedRows | None, *, resumed: bool
) -> Page:
    """Write down what is to be done, and do it; again where another client writes a target meanwhile."""
    done = journal.state.pages + journal.state.begun
    wanted = None if planned is None else planned.take(batch.values)
    for _ in range(_ATTEMPTS):
        rows = [msgspec.structs.replace(row) for row in batch.rows]
        stats = await compare(run.store, rows, journal.id)
        puts = {row.target: batch.puts[row.target] for row in rows if row.outcome == "migrate"}
        expected = {target: stats[target].version if target in stats else 0 for target in puts}
        earlier = await reclaim(run.store, journal, rows, stats) if resumed else []
        if wanted is not None:
            refuse_difference(rows, wanted)
        plain, others = tally.split(rows)
        after = to_bytes(batch.values[-1].key).hex()
        page = Page(new_commit_id() if puts else "", after, len(batch.values), plain, others, earlier)
        state = msgspec.structs.replace(journal.state, pages=done, begun=True)
        await journal.write(state, {journal.page_name(done + 1): encode(page)})
        try:
            if puts:
                await _commit(run.store, label_of_copy(journal), puts, expected, page.commit_id)
        except VersionConflict:
            continue
        except CommitAborted:
            raise lock_held(journal.id) from None
        return page
    raise VersionConflict(
        f"the targets of one batch were written by others {_ATTEMPTS} times in a row",
        conflicts={},
        hint="find out who writes them, and go on with --resume",
        next=again(resume=True),
    )


async def _commit(
    store: Store,
    label: Mapping[str, str],
    puts: Mapping[str, Admitted],
    expected: Mapping[str, int],
    commit_id: str,
) -> None:
    await store.commit_matrix_update(
        {key: admitted.data for key, admitted in puts.items()},
        CommitMetadata(label, verdicts_of(puts), COMMAND),
        expected,
        commit_id=commit_id,
    )


def _count(run: MigrationContext, report: MigrateReport, page: Page) -> None:
    report.values += page.values
    tally.fold_plain(report, page.plain)
    tally.fold(report, page.rows, listing=run.listing)


def _tell(
    run: MigrationContext, report: MigrateReport, batch: Batch, rows: Sequence[MigrationRow], total: int
) -> None:
    run.each(Progress(report.values, total, batch.json_bytes, rows, batch.slowest))


def _finish(report: MigrateReport, *, stopped: bool) -> None:
    if not report.complete:
        report.stopped = "a signal" if stopped else "--max-duration"
    tally.finish(report)

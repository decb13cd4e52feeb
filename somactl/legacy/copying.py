"""All values of a source, batch by batch: looked at alone, copied into the store, or exactly as a plan says.

While one batch is committed the next one is read and examined. A batch that has begun is finished, whatever
signal comes, so that a stop always leaves a checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import msgspec

from somactl.errors import (
    CommitAborted,
    CorruptValue,
    KeyNotFound,
    NamespaceNotFound,
    NotFound,
    StoreDamaged,
    UsageError,
    VersionConflict,
)
from somactl.legacy import tally
from somactl.legacy.batches import Batch, as_it_is, batches, cost_of, list_names
from somactl.legacy.examine import examine
from somactl.legacy.journal import Journal, Page, State, encode, lock_held
from somactl.legacy.plan import Plan, PlannedRows, compare_plan, refuse_difference
from somactl.legacy.request import MigrationContext, MigrationProgress, Selection
from somactl.legacy.source.contract import Source
from somactl.legacy.source.workspace import Workspace, to_bytes
from somactl.legacy.target import claim, claim_again, compare, label_of_copy, labels_of
from somactl.operations.admission import Admitted, Policy
from somactl.operations.commit import policy_of, verdicts_of
from somactl.operations.jobs.pipeline import Ended, pipeline
from somactl.report import MigrateReport, MigrationRow
from somactl.store.contract import CommitMetadata, Stat, Store, is_dark
from somactl.store.request import new_commit_id
from somactl.suggestion import again, run

COMMAND = "migrate-json"
_ATTEMPTS = 5
_COPIED = ("copied", "finalized")
_UNFINISHED = {"finalizing": "finalize", "reverting": "revert", "forgetting": "forget"}


async def inspect(
    context: MigrationContext, emit: Callable[[Sequence[MigrationRow]], None] = lambda rows: None
) -> MigrateReport:
    """What a copy would do now. `emit` gets every row, in the order of the source's keys.

    A namespace that does not exist yet is taken to be empty, and a warning says so.
    """
    report = context.report(dry_run=True)

    async def resolve(batch: Batch) -> Page:
        try:
            await compare(context.store, batch.rows, context.migration)
        except NamespaceNotFound:
            report.warnings = [
                f"namespace {report.namespace!r} does not exist yet, so nothing is taken to be there"
            ]
        emit(batch.rows)
        return Page("", "", len(batch.values), *tally.split(batch.rows))

    async def finish() -> None:
        """Nothing was written that had to be checked off."""

    with Workspace() as workspace:
        await list_names(context, workspace.names)
        return await _walk(context, workspace, None, report, resolve, finish)


async def copy(context: MigrationContext, *, resume: bool = False, plan: Plan | None = None) -> MigrateReport:
    """Copy every matrix that the store does not have; with `plan` exactly what it says.

    An earlier run that was stopped is gone on with by `resume`, or by the plan that it carried out. Raises
    UsageError where it was stopped and neither was given; PlanStale, LockHeld, and what store and source
    raise. What was committed before stands.
    """
    journal = await Journal.open(context.store, context.migration)
    goes_on = _goes_on(journal, plan, resume=resume)
    if goes_on:
        if journal.state.phase != "finalized":  # of what was taken out of the source, nothing is copied again
            await _recover(context.store, journal)
        if journal.state.phase in _COPIED:
            return await _done_before(context, journal)
    report = context.report(migration=journal.id, phase="copying", plan=plan.digest if plan else None)
    with Workspace() as workspace:
        await list_names(context, workspace.names)
        after = None
        if goes_on:
            async for page in journal.pages(journal.state.first_page):
                tally.add_page(report, page, listing=context.listing)
                context.watch(
                    MigrationProgress(report.values, "values", len(workspace.names), rows=page.rows)
                )
                claim_again(page.rows, workspace.texts)
                after = page.last_key
        planned = None
        if plan is not None:
            ended = await compare_plan(context, workspace.names, plan, after)
            if ended != "done":
                report.complete = False
                if not goes_on:  # so there is no migration yet
                    report.migration, report.phase = journal.id if journal.exists else None, "planned"
                return tally.finish(report, ended)
            planned = PlannedRows(plan, after)
        if not goes_on:  # not before: a plan that is stale leaves nothing behind, and no run to be resumed
            await _begin(context, journal, plan)

        async def finish() -> None:
            report.phase = "copied" if report.complete else "copying"
            state = journal.state
            await journal.advance(phase=report.phase, pages=state.pages + state.begun, begun=False)

        resolve = partial(_copy_batch, context, journal, planned, report, goes_on)
        return await _walk(context, workspace, after, report, resolve, finish)


async def _walk(
    context: MigrationContext,
    workspace: Workspace,
    after: str | None,
    report: MigrateReport,
    resolve: Callable[[Batch], Awaitable[Page]],
    finish: Callable[[], Awaitable[None]],
) -> MigrateReport:
    """Settle every batch behind the key `after`, and count it; a signal does not keep `finish` off."""
    last, read = after, 0

    async def collect(batch: Batch) -> None:
        nonlocal last, read
        claim(batch.rows, workspace.texts)
        page = await resolve(batch)
        last, read = batch.values[-1].key, read + cost_of(batch.values)[1]
        tally.add_page(report, page, listing=context.listing)
        total = len(workspace.names)
        context.watch(MigrationProgress(report.values, "values", total, read, "", page.rows, batch.slowest))

    async def end(ended: Ended) -> None:
        # Counting would not tell: a source that changed since an earlier run has other keys than it had.
        report.complete = next(workspace.names.pages(last, 1), None) is None
        await finish()

    ended = await pipeline(
        batches(context, workspace.names, after),
        as_it_is,
        collect,
        pace=context.pace,
        cost=lambda batch: cost_of(batch.values),
        ahead=0,
        finish=end,
    )
    return tally.finish(report, ended)


async def migrate_json_payload_to_matrix(
    key: str,
    source: Source,
    store: Store,
    *,
    selection: Selection | None = None,
    policy: Policy | None = None,
    dry_run: bool = False,
) -> list[MigrationRow]:
    """Commit the matrices that the value of `key` in `source` holds, all of them or none.

    One row for each matrix, in the order of the text, or one that says why the value holds none; what was
    committed has outcome `migrate`. A matrix that is rejected, or whose target is taken, is left where it
    is and does not keep the others back. The source is not touched.

    Raises VersionConflict where a target is written by others at this moment, and what source and store
    raise; NamespaceNotFound, but in a dry run, where the store does not exist yet.
    """
    (value,) = await source.fetch([key])
    policy = policy_of(store, policy or Policy())
    found = await asyncio.to_thread(examine, value, store.namespace, selection or Selection(), policy)
    with contextlib.suppress(NamespaceNotFound):  # whether a commit creates it is for the store to say
        await compare(store, found.rows)
    puts = {row.target: found.puts[row.target] for row in found.rows if row.outcome == "migrate"}
    if puts and not dry_run:
        await _commit(store, {}, puts, dict.fromkeys(puts, 0), new_commit_id(), dark=policy.dark)
    return found.rows


def _goes_on(journal: Journal, plan: Plan | None, *, resume: bool) -> bool:
    """Whether an earlier run is gone on with; False where a new pass over the source begins.

    A plan goes on where it stopped, also at its end, where nothing is left of it. Another plan than the
    earlier run's was made since, and knows what is done.
    """
    if not journal.exists:
        return False
    state = journal.state
    if state.phase in _UNFINISHED:
        raise UsageError(
            f"migration {journal.id} is {state.phase}",
            hint="finish that first",
            next=run(f"migration {_UNFINISHED[state.phase]}", journal.id),
        )
    if plan is not None:
        return state.plan == plan.digest and state.phase != "reverted"
    if resume and state.phase == "reverted":
        raise UsageError(
            f"migration {journal.id} is reverted: there is nothing to resume",
            hint="without --resume it is copied again",
            next=again(resume=None),
        )
    if resume and state.phase == "copying" and state.plan is not None:
        raise UsageError(
            f"the earlier run of migration {journal.id} carried out a plan",
            hint="apply that plan again, and it goes on; or begin anew without --resume",
        )
    if not resume and state.phase == "copying" and state.plan is None:
        raise UsageError(
            f"an earlier run of migration {journal.id} was stopped after {state.pages} batches",
            hint="go on where it stopped (--resume)",
            next=again(resume=True),
        )
    return resume


async def _recover(store: Store, journal: Journal) -> None:
    """Learn what became of the batch under way, and go back to the last one whose matrices are all there.

    A store may have lost its newest commits, a Redis without fsync say. What it still has is a beginning of
    what it had, so that the first page from the end that stands is where to go on. A page without a commit
    says nothing about that.
    """
    await journal.resolve()
    standing = journal.state.pages
    for number in range(standing, journal.state.first_page - 1, -1):
        page = await journal.page(number)
        if not page.commits:
            continue
        if await _stands(store, page):
            break
        standing = number - 1
    if standing < journal.state.pages:
        await journal.advance(phase="copying", pages=standing)


async def _stands(store: Store, page: Page) -> bool:
    """Whether the store holds every matrix that the page's commit wrote, its bytes digested anew.

    What has been overwritten or deleted since was there, and counts. Raises StoreDamaged for corrupt bytes.
    """
    contents = {row.target: row.content for row in page.rows if row.outcome == "migrate"}
    stats = (await store.stat_many(list(contents))).stats if contents else {}
    for key, content in contents.items():
        stat = stats.get(key)
        if stat is None or stat.content != content:
            if not await _was_there(store, key, page.commits):
                return False
            continue
        try:
            await store.read(key, stat.version)  # by its version: from the authority, not from a cache
        except CorruptValue as error:
            raise StoreDamaged(f"{key!r}, which this migration wrote, is corrupt: {error.message}") from error
        except NotFound:
            return False
    return True


async def _was_there(store: Store, key: str, commits: set[str]) -> bool:
    try:
        return any(revision.commit_id in commits for revision in await store.history(key))
    except KeyNotFound:
        return False


async def _done_before(context: MigrationContext, journal: Journal) -> MigrateReport:
    """The report of a pass that came to its end before, from its journal; the source is not read."""
    report = await tally.of_journal(journal, context.watch, listing=context.listing)
    report.warnings.append(
        f"migration {journal.id} was {report.phase} before, and nothing was left to resume; without --resume "
        "its source is looked at again"
    )
    return tally.finish(report)


async def _begin(context: MigrationContext, journal: Journal, plan: Plan | None) -> None:
    """Begin a new pass over the source, whatever became of the one before."""
    digest = plan.digest if plan else None
    source = context.source
    if not journal.exists:
        state = State(
            source=source.identity,
            name=source.name,
            asked=context.request.to_wire(),
            born=new_commit_id(),
            words=list(context.words),
            plan=digest,
        )
        await journal.write(state)
        return
    await journal.resolve()
    state = journal.state
    await journal.advance(
        phase="copying",
        first_page=state.pages + 1,
        plan=digest,
        dead=state.pages if state.phase == "reverted" else state.dead,
        words=list(context.words) or state.words,
    )


async def _copy_batch(
    context: MigrationContext,
    journal: Journal,
    planned: PlannedRows | None,
    report: MigrateReport,
    resumed: bool,
    batch: Batch,
) -> Page:
    """Write down what is to be done, and do it. Where others write a target in between, begin again."""
    store = context.store
    done = journal.state.pages + journal.state.begun
    wanted = None if planned is None else planned.take(batch.values)
    for _ in range(_ATTEMPTS):
        rows = [msgspec.structs.replace(row) for row in batch.rows]
        stats = await compare(store, rows, journal.id)
        puts = {row.target: batch.puts[row.target] for row in rows if row.outcome == "migrate"}
        expected = {target: stats[target].version if target in stats else 0 for target in puts}
        earlier = await _reclaim(store, journal, rows, stats) if resumed else []
        if wanted is not None:
            refuse_difference(rows, wanted)
        after = to_bytes(batch.values[-1].key).hex()
        commit_id = new_commit_id() if puts else ""
        plain, others = tally.split(rows)
        so_far = tally.so_far(report, plain, others)
        page = Page(commit_id, after, len(batch.values), plain, others, earlier, so_far)
        state = msgspec.structs.replace(journal.state, pages=done, begun=True)
        await journal.write(state, {journal.page_name(done + 1): encode(page)})
        try:
            if puts:
                await _commit(store, label_of_copy(journal), puts, expected, commit_id)
        except VersionConflict:
            continue
        except CommitAborted:
            raise lock_held(journal.id) from None
        return page
    raise VersionConflict(
        f"the targets of one batch were written by others {_ATTEMPTS} times in a row",
        conflicts={},
        hint="find out who writes them, and go on with --resume",
        next=again() if planned is not None else again(resume=True),
    )


async def _reclaim(
    store: Store, journal: Journal, rows: Sequence[MigrationRow], stats: Mapping[str, Stat]
) -> list[str]:
    """Commits of this very pass that wrote some of the rows: these are no others' work, but `migrate`.

    A run may outlive the store's loss of its newest writes by one commit, which then stands in no journal.
    """
    by_commit: dict[str, list[MigrationRow]] = {}
    for row in rows:
        if row.outcome == "identical" and row.reason != "collision" and row.target in stats:
            by_commit.setdefault(stats[row.target].commit_id, []).append(row)
    labels = await labels_of(store, by_commit)
    own = [commit for commit, label in labels.items() if label == label_of_copy(journal)]
    for commit in own:
        for row in by_commit[commit]:
            row.outcome = "migrate"
    return own


async def _commit(
    store: Store,
    label: Mapping[str, str],
    puts: Mapping[str, Admitted],
    expected: Mapping[str, int],
    commit_id: str,
    *,
    dark: bool = False,
) -> None:
    data = {key: admitted.data for key, admitted in puts.items()}
    metadata = CommitMetadata(label, verdicts_of(puts), COMMAND, dark=dark or is_dark(store))
    await store.commit_matrix_update(data, metadata, expected, commit_id=commit_id)

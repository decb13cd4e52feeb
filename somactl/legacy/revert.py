"""Undo a migration: values go back into the source, then matrices out of the store; or forget it.

Whatever was changed since is left alone, in the source and in the store. A matrix to which a value of the
source still refers, because that value was changed after it was finalized, stays too.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence

from somactl.errors import LockHeld, UsageError, VersionConflict
from somactl.legacy import tally
from somactl.legacy.batches import as_it_is
from somactl.legacy.examine import shown
from somactl.legacy.journal import PREFIX, Journal, Original, Page
from somactl.legacy.request import MigrationProgress, Watch
from somactl.legacy.source.contract import Source
from somactl.legacy.source.workspace import Texts, Workspace, to_text
from somactl.operations.jobs.pace import Pace
from somactl.operations.jobs.pipeline import Ended, pipeline
from somactl.operations.jobs.progress import unwatched
from somactl.report import MigrateReport
from somactl.store.contract import CommitMetadata, Store
from somactl.store.request import new_commit_id
from somactl.suggestion import again, run

COMMAND = "migration revert"
_ATTEMPTS = 5
_FORGET_AT_ONCE = 100
RESTORE_VALUES = 100
_RESTORED = b"1"
_RESTORE_BYTES = 16 << 20
"""What is put back into the source at once, unless a single value is larger."""


async def revert(
    source: Source | None,
    store: Store,
    journal: Journal,
    pace: Pace,
    watch: Watch = unwatched,
    kept: Callable[[Original], None] = lambda original: None,
) -> MigrateReport:
    """Carry it out; `left_alone` says what stays as it is, and why.

    Where nothing was finalized, the source has all it had, and need not be there: None. `kept` gets every
    original that was not put back, because the source has something newer there; as long as there are such,
    it may be repeated, and tries them again.
    """
    state = journal.state
    nothing_left = await anext(journal.originals(), None) is None
    if state.phase == "reverted" and nothing_left:
        report = journal.report("reverted")
        report.warnings.append(f"migration {journal.id} was reverted before: there was nothing left to do")
        return tally.finish(report)
    if state.phase == "forgetting":
        raise UsageError(
            f"originals of migration {journal.id} are forgotten already: it cannot be reverted",
            hint="finish that",
            next=run("migration forget", journal.id),
        )
    await journal.resolve()
    if state.phase != "reverting":
        await journal.advance(phase="reverting", settled=state.dead)
    report = journal.report("reverting")
    with Workspace() as workspace:
        staying = workspace.texts  # `key K` of values that stay, `target T` of what they may refer to
        is_withdrawing = False

        async def collect(item: list[Original] | Page) -> None:
            nonlocal is_withdrawing
            if isinstance(item, list):
                assert source is not None
                left = await _restore(source, journal, item)
                report.restored += len(item) - len(left)
                for original in left:
                    key = to_text(bytes.fromhex(original.key))
                    tally.leave(report, {key: "it was changed after it was finalized"})
                    staying.put(f"key {shown(key)}", "")
                    kept(original)
                watch(MigrationProgress(report.restored, "values put back"))
                return
            if not is_withdrawing:
                is_withdrawing = True
                if report.left_alone:
                    await _find_targets(journal, staying)
            withdrawn, newer = await _withdraw(store, item, staying if report.left_alone else None)
            report.withdrawn += withdrawn
            why = "its matrix was committed anew since; the newer one stays in the store"
            tally.leave(report, dict.fromkeys(newer, why))
            await journal.advance(settled=journal.state.settled + 1)
            watch(MigrationProgress(journal.state.settled, "batches taken back", journal.state.pages))

        async def finish(ended: Ended) -> None:
            if ended == "done" or (is_withdrawing and journal.state.settled == journal.state.pages):
                await journal.advance(phase="reverted")
                report.phase = "reverted"

        read = _originals_and_pages(journal, pace.portion(RESTORE_VALUES))
        ended = await pipeline(read, as_it_is, collect, pace=pace, cost=_cost, ahead=0, finish=finish)
    report.complete = report.phase == "reverted"
    return tally.finish(report, ended)


async def _find_targets(journal: Journal, staying: Texts) -> None:
    """The matrices to which the values that stay may refer: each may have come from another value."""
    async for page in journal.pages(journal.state.dead + 1):
        for row in page.rows:
            if row.target and staying.get(f"key {row.key}") is not None:
                staying.put(f"target {row.target}", "")


async def _originals_and_pages(journal: Journal, most: int) -> AsyncGenerator[list[Original] | Page, None]:
    """The originals, `most` at a time, and then the pages.

    The newest page first: what a later pass wrote over an earlier one's copy is this migration's own.
    """
    portion: list[Original] = []
    size = 0
    async for original in journal.originals():
        if portion and (size + len(original.data) > _RESTORE_BYTES or len(portion) == most):
            yield portion
            portion, size = [], 0
        portion.append(original)
        size += len(original.data)
    if portion:
        yield portion
    state = journal.state
    for number in range(state.pages + state.dead - state.settled, state.dead, -1):
        yield await journal.page(number)


def _cost(item: list[Original] | Page) -> tuple[int, int]:
    """What is put back counts."""
    return (len(item), sum(len(each.data) for each in item)) if isinstance(item, list) else (0, 0)


async def _restore(source: Source, journal: Journal, originals: Sequence[Original]) -> list[Original]:
    """Put these back, and note that they are; returns the others. All bytes are kept until `forget`."""
    swapped = await source.swap([original.put_back for original in originals])
    done = [original for original, restored in zip(originals, swapped, strict=True) if restored]
    if done:
        names = [journal.restored_name(bytes.fromhex(original.key)) for original in done]
        await journal.write(journal.state, dict.fromkeys(names, _RESTORED))
    return [original for original, restored in zip(originals, swapped, strict=True) if not restored]


async def _withdraw(store: Store, page: Page, staying: Texts | None) -> tuple[int, set[str]]:
    """Delete what the page's commit wrote and no other has written since, in one commit.

    How many matrices these were, and the keys that hold newer ones.
    """
    targets = [row.target for row in page.rows if row.outcome == "migrate"]
    if staying is not None:
        targets = [target for target in targets if staying.get(f"target {target}") is None]
    for _ in range(_ATTEMPTS):
        stats = (await store.stat_many(targets)).stats if targets else {}
        unchanged = {key: stat.version for key, stat in stats.items() if stat.commit_id in page.commits}
        try:
            if unchanged:
                metadata = CommitMetadata(command=COMMAND)
                await store.commit_matrix_update(
                    dict.fromkeys(unchanged), metadata, unchanged, commit_id=new_commit_id()
                )
        except VersionConflict:
            continue
        return len(unchanged), stats.keys() - unchanged.keys()
    raise LockHeld(
        "the migrated keys are being written by others",
        hint="stop the writers, and run it again",
        next=again(),
    )


async def forget(store: Store, migration: str) -> MigrateReport:
    """Drop the original bytes and the journal: from now on the migration cannot be reverted.

    Not in part either: a revert would take out of the store what it cannot put back into the source. Nothing
    is kept of what was forgotten, so that one that is not there has been.
    """
    journal = await Journal.open(store, migration)
    if not journal.exists:
        place = f"namespace {store.namespace!r}"
        return MigrateReport(
            store=store.name,
            namespace=store.namespace,
            migration=migration,
            phase="forgotten",
            warnings=[f"no migration {migration} is recorded in {place}: there is nothing to forget"],
        )
    phase = journal.state.phase
    if phase not in ("finalized", "reverted", "copied", "forgetting"):
        raise UsageError(
            f"migration {journal.id} is {phase}",
            hint="let it come to its end first",
            next=run("migration show", journal.id),
        )
    await journal.advance(phase="forgetting")
    report = journal.report("forgotten")
    async for notes in store.scan_notes(f"{PREFIX}{journal.id}/"):
        names = [note.name for note in notes]
        for start in range(0, len(names), _FORGET_AT_ONCE):
            await store.write_notes(dict.fromkeys(names[start : start + _FORGET_AT_ONCE]))
        report.forgotten += sum("/original/" in name for name in names)
    await store.write_notes({PREFIX + journal.id: None})
    return report

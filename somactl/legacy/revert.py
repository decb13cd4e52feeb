"""Undo a migration: first the values go back into the source, then the matrices out of the store.

Whatever was changed since is left alone, in the source and in the store. A matrix to which a value of the
source still refers, because that value was changed after it was finalized, stays too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from somactl.errors import LockHeld, NamespaceNotFound, NotFound, UsageError, VersionConflict
from somactl.legacy.batches import until_told
from somactl.legacy.context import Progress, Watch, unwatched
from somactl.legacy.examine import shown
from somactl.legacy.journal import PREFIX, Journal, Original, Page, find, put_back
from somactl.legacy.leaving import finish, leave
from somactl.legacy.source.contract import Source
from somactl.legacy.source.workspace import Texts, Workspace, to_text
from somactl.operations.jobs.pace import Pace
from somactl.report import MigrateReport
from somactl.store.contract import CommitMetadata, Store
from somactl.store.request import new_commit_id
from somactl.suggestion import again

COMMAND = "migrate-json --revert"
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
    each: Watch = unwatched,
    kept: Callable[[Original], None] = lambda original: None,
) -> MigrateReport:
    """Carry it out; `left_alone` says what stays as it is, and why.

    Where nothing was finalized, the source has all it had, and need not be there: None. `kept` gets every
    original that was not put back, because the source has something newer there; as long as there are such,
    it may be repeated, and tries them again.
    """
    state = journal.state
    nothing_left = await anext(journal.originals(), None) is None
    if source is None and not nothing_left:
        raise UsageError(
            f"migration {journal.id} took values out of {state.name}, and no source is named",
            hint=f"name the one it came from: {state.source}",
        )
    if state.phase == "reverted" and nothing_left:
        return _done_before(journal.report("reverted"), "reverted")
    if state.phase == "forgetting":
        raise UsageError(
            f"originals of migration {journal.id} are forgotten already: it cannot be reverted",
            hint="finish that",
            next=again(revert=None, forget=True),
        )
    await journal.recover()
    if state.phase != "reverting":
        await journal.advance(phase="reverting", settled=state.dead)
    report = journal.report("reverting")
    with Workspace() as workspace:
        staying = _Staying(workspace.texts)

        async def work(stop: asyncio.Event) -> None:
            if source is not None and not await _restore_all(
                source, journal, pace, stop, report, staying, each, kept
            ):
                return
            await staying.find_targets(journal)
            while journal.state.settled < journal.state.pages and await pace.turn(stop):
                # The newest first: what a later pass wrote over an earlier one's copy is ours as well.
                page = await journal.page(journal.state.pages + journal.state.dead - journal.state.settled)
                await _withdraw(store, page, staying, report)
                await journal.advance(settled=journal.state.settled + 1)
                each(Progress(journal.state.settled, journal.state.pages, what="batches taken back"))
            if journal.state.settled == journal.state.pages:
                await journal.advance(phase="reverted")
                report.phase = "reverted"

        stopped = await until_told(work)
    return finish(report, done=report.phase == "reverted", stopped=stopped)


class _Staying:
    """What is not reverted: values that were changed since, and the matrices to which they may refer."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._any = False

    def add(self, key: str) -> None:
        self._any = True
        self._texts.put(f"key {shown(key)}", "")

    async def find_targets(self, journal: Journal) -> None:
        """A matrix may have come from one value, and a reference to it stand in another."""
        if not self._any:
            return
        async for page in journal.pages(journal.state.dead + 1):
            for row in page.rows:
                if row.target and self._texts.get(f"key {row.key}") is not None:
                    self._texts.put(f"target {row.target}", "")

    def has(self, target: str) -> bool:
        return self._any and self._texts.get(f"target {target}") is not None


async def _restore_all(
    source: Source,
    journal: Journal,
    pace: Pace,
    stop: asyncio.Event,
    report: MigrateReport,
    staying: _Staying,
    each: Watch,
    kept: Callable[[Original], None],
) -> bool:
    """Put every original back where nothing was changed since; False where it was stopped on the way."""
    async for portion in _portions(journal.originals(), pace.portion(RESTORE_VALUES)):
        if not await pace.turn(stop):
            return False
        for original in await _restore(source, journal, portion, report):
            staying.add(to_text(bytes.fromhex(original.key)))
            kept(original)
        pace.did(len(portion), sum(len(original.data) for original in portion))
        each(Progress(report.restored, None, what="values put back"))
    return True


async def _portions(originals: AsyncIterator[Original], most: int) -> AsyncIterator[list[Original]]:
    portion: list[Original] = []
    size = 0
    async for original in originals:
        if portion and (size + len(original.data) > _RESTORE_BYTES or len(portion) == most):
            yield portion
            portion, size = [], 0
        portion.append(original)
        size += len(original.data)
    if portion:
        yield portion


async def _restore(
    source: Source, journal: Journal, originals: Sequence[Original], report: MigrateReport
) -> list[Original]:
    """Put these back, and note that they are; returns the others. All bytes are kept until `--forget`."""
    changes = [put_back(original) for original in originals]
    swapped = await source.swap(changes)
    done = [original for original, restored in zip(originals, swapped, strict=True) if restored]
    for change, restored in zip(changes, swapped, strict=True):
        if not restored:
            leave(report, change.key, "it was changed after it was finalized")
    if done:
        names = [journal.restored_name(bytes.fromhex(original.key)) for original in done]
        await journal.write(journal.state, dict.fromkeys(names, _RESTORED))
        report.restored += len(done)
    return [original for original, restored in zip(originals, swapped, strict=True) if not restored]


async def _withdraw(store: Store, page: Page, staying: _Staying, report: MigrateReport) -> None:
    """Delete what the page's commit wrote and has not been written since, in one commit."""
    ours = [row for row in page.rows if row.outcome == "migrate" and not staying.has(row.target)]
    for _ in range(_ATTEMPTS):
        stats = (await store.stat_many([row.target for row in ours])).stats if ours else {}
        unchanged = {key: stat.version for key, stat in stats.items() if stat.commit_id in page.commits}
        try:
            if unchanged:
                metadata = CommitMetadata(command=COMMAND)
                await store.commit_matrix_update(
                    dict.fromkeys(unchanged), metadata, unchanged, commit_id=new_commit_id()
                )
        except VersionConflict:
            continue
        report.withdrawn += len(unchanged)
        for key in stats.keys() - unchanged.keys():
            leave(report, key, "its matrix was committed anew since; the newer one stays in the store")
        return
    raise LockHeld(
        "the migrated keys are being written by others",
        hint="stop the writers, and run it again",
        next=again(),
    )


async def forget(store: Store, journal: Journal) -> MigrateReport:
    """Drop the original bytes and the journal: from now on the migration cannot be reverted.

    Not in part either: a revert would take out of the store what it cannot put back into the source.
    """
    state = journal.state
    if state.phase not in ("finalized", "reverted", "copied", "forgetting"):
        raise UsageError(f"migration {journal.id} is {state.phase}", hint="let it come to its end first")
    await journal.advance(phase="forgetting")
    report = journal.report("forgotten")
    async for notes in store.scan_notes(f"{PREFIX}{journal.id}/"):
        names = [note.name for note in notes]
        for start in range(0, len(names), _FORGET_AT_ONCE):
            await store.write_notes(dict.fromkeys(names[start : start + _FORGET_AT_ONCE]))
        report.forgotten += sum("/original/" in name for name in names)
    await store.write_notes({PREFIX + journal.id: None})
    return report


async def forget_named(store: Store, source: str, migration: str | None) -> MigrateReport:
    """`forget` for the migration that `find` finds.

    Where there is none it is done, as it is when it is repeated: nothing is kept of what was forgotten.
    """
    try:
        return await forget(store, await find(store, source, migration))
    except NamespaceNotFound:
        raise
    except NotFound as exc:
        report = MigrateReport(store=store.name, namespace=store.namespace, migration=migration)
        report.phase = "forgotten"
        report.warnings.append(f"{exc.message}: there is nothing to forget")
        return report


def _done_before(report: MigrateReport, what: str) -> MigrateReport:
    report.warnings.append(f"migration {report.migration} was {what} before: there was nothing left to do")
    return finish(report, done=True, stopped=False)

"""Take pages of keys through workers into a report, in their order, until something ends it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from somactl.errors import SomactlError
from somactl.operations.audit.model import Proven, Tally
from somactl.operations.audit.pages import Page, joined
from somactl.operations.audit.workers import Workers
from somactl.operations.jobs.pace import Pace
from somactl.operations.jobs.pipeline import pipeline
from somactl.operations.jobs.progress import Progress, Watch, unwatched
from somactl.report import OUTCOME_CODES, Checked, VerifyReport

FAIL_FAST = "--fail-fast"
Noted: TypeAlias = Callable[[Page, Proven], Awaitable[None]]
"""Called with each page and what was found of it, once it is counted."""


class _FailFast(Exception):
    """The first outcome that is not right has come, and the audit was to end there."""


@dataclass(slots=True)
class Proofs:
    """What an audit has proven so far, whichever way its keys were chosen.

    total     how many matrices there are, where that is known
    ended_by  what ended it before all was proven, in words; empty: nothing did
    error     the failure that did
    done      how many pages were collected, those of the run that this one goes on from included
    """

    workers: Workers
    tally: Tally
    pace: Pace = field(default_factory=Pace)
    watch: Watch = unwatched
    total: int | None = None
    ended_by: str = ""
    error: SomactlError | None = None
    done: int = 0
    _read: int = 0

    @property
    def report(self) -> VerifyReport:
        return self.tally.report

    async def prove(
        self,
        pages: AsyncGenerator[Page, None],
        noted: Noted | None = None,
        *,
        absent_is_unreadable: bool = False,
    ) -> bool:
        """Prove all pages; False where something ended it, which is then told by `ended_by`.

        A failure of the store or of a worker ends it too: what was proven before counts. It is raised where
        that is nothing at all.
        """

        async def work(page: Page) -> tuple[Page, Proven]:
            return page, await self.workers.prove(page.task) if page.task.keys else Proven(results=[])

        async def collect(found: tuple[Page, Proven]) -> None:
            going = self._count(*found, absent_is_unreadable=absent_is_unreadable)
            self.done += 1
            if not going:
                self.ended_by = FAIL_FAST
            if noted is not None:
                await noted(*found)
            if not going:
                raise _FailFast

        try:
            ended = await pipeline(
                joined(pages, lambda: self.workers.task_bytes),
                work,
                collect,
                pace=self.pace,
                cost=lambda page: (len(page.task.keys), page.task.bytes_),
                workers=self.workers.count,
            )
        except _FailFast:
            pass  # `collect` has noted it
        except SomactlError as exc:
            if not (self.done or self.report.checked):
                raise
            self.fail(exc)
        else:
            self.ended_by = {"done": "", "deadline": "--max-duration", "signal": "a signal"}[ended]
        return not self.ended_by

    def fail(self, error: SomactlError) -> None:
        """Note that `error` ended it."""
        self.ended_by, self.error = error.message, error

    def excuse(self, reason: str) -> str | None:
        """Nothing ended it, if it was this; the reason, where it was."""
        if self.ended_by != reason:
            return None
        self.ended_by = ""
        return reason

    def _count(self, page: Page, proven: Proven, *, absent_is_unreadable: bool) -> bool:
        for stat in page.skipped:
            skipped = Checked(source=stat.key, outcome="skipped", version=stat.version, kind=stat.kind)
            self.tally.count(skipped)
        for checked in proven.results:
            listed = page.stats.get(checked.source)
            if listed is not None and checked.outcome == "corrupt":
                checked.version, checked.digest = listed.version, listed.content
        if absent_is_unreadable:
            proven.results += [absent(key) for key in (*page.absent, *proven.absent)]
        going = self.tally.add(proven)
        self._read += proven.bytes_
        self._tell()
        return going

    def _tell(self) -> None:
        report = self.report
        wrong = sum(getattr(report, outcome) for outcome in OUTCOME_CODES)
        note = f"{wrong} not right" if wrong else ""
        told = report.checked + wrong - report.violated + report.skipped
        self.watch(Progress(told, "matrices", self.total, self._read, note))


def absent(key: str) -> Checked:
    return Checked(source=key, outcome="unreadable", error=f"key {key!r} is not in the store")

"""The command that judges a rollout: canary-check."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from somactl.cli import inputs
from somactl.cli.canary import (
    STORE,
    Baseline,
    Candidate,
    Hooks,
    Limits,
    Running,
    Times,
    What,
    flag_of,
    given,
)
from somactl.cli.canary_files import Files, Written, opened, replayed
from somactl.cli.command import Session, command
from somactl.cli.signals import impatient
from somactl.core.canary_samples import ARMS, ArmName, Failure
from somactl.core.canary_spec import Spec
from somactl.core.canary_spec_file import read_spec
from somactl.operations.jobs.notes_file import NotesFile
from somactl.operations.jobs.progress import Progress
from somactl.report import CanaryReport, Report
from somactl.report.canary_evidence import without_secrets
from somactl.report.encoding import to_json

if TYPE_CHECKING:
    from somactl.operations.canary.recording import Recording
    from somactl.operations.canary.run import Ended
    from somactl.operations.canary.state import Kept
    from somactl.operations.canary.watch import Watch

_MOST_FAILURES = 5


@command(
    pushes=True,
    epilog="Exit 0: PASS. 3: FAIL. 4: INCONCLUSIVE, and 5: INSUFFICIENT, which both mean hold. 10: the spec "
    "is wrong. 11: a file cannot be read. 16: another check of this spec went on with what is kept. 130, "
    "143: ended by a signal, which is a hold. A hook changes none of these.",
)
async def canary_check(
    session: Session,
    *,
    what: What,
    files: Files,
    running: Running,
    hooks: Hooks,
    times: Times,
    baseline: Baseline,
    candidate: Candidate,
    limits: Limits,
) -> Report:
    """Judge whether a rollout goes on: a candidate against a baseline and limits, looked at all the time.

    Each field of the spec is also a flag, which goes before it.
    """
    running.refuse_mixed(what)
    hooks.check()
    flags = given(times, baseline, candidate, limits)
    if files.replay is not None:
        others = [*(["--spec"] if what.spec else []), *map(flag_of, flags)]
        session.done.append(report := replayed(session, files, what.samples, others))
        return report
    spec = _spec(what, flags)
    report = CanaryReport(spec=without_secrets(spec), once=running.once)
    report.started_at = time.time()  # no store's: there are two, or none
    read = [what.spec, *(arm.file for arm in spec.arms.values())]
    with impatient(), opened(session, files, *read) as written:
        check = _Check(session, spec, running, hooks, written, report)
        if all(spec.arms[arm].source == "samples" for arm in ARMS) and running.kept_in is None:
            await check.judge_recording()
        else:
            await check.watch()
    return report


def _spec(what: What, flags: dict[str, str]) -> Spec:
    """Raises ConfigurationError, InvalidFile."""
    text = None if what.spec is None else inputs.read_spec(what.spec)
    name = "the flags" if what.spec is None else inputs.name_of(what.spec)
    return read_spec(text, name, {**what.replaced(), **flags})


@dataclass(slots=True)
class _Check:
    """One run of canary-check."""

    session: Session
    spec: Spec
    running: Running
    hooks: Hooks
    written: Written
    report: CanaryReport
    _told: int = 0  # looks that were printed

    async def judge_recording(self) -> None:
        from somactl.operations.canary.recording import judge_recording, read_recording
        from somactl.operations.canary.run import Ended

        files: dict[ArmName, str] = {arm: self.spec.arms[arm].file or "" for arm in ARMS}
        recording = read_recording(files, inputs.read_samples)
        verdict, watch = judge_recording(self.spec, recording)
        self.report.recorded = True
        await self._end(Ended(verdict, watch, is_final=True), None, recording)

    async def watch(self) -> None:
        """Ask the sources until the verdict is final; or once."""
        from somactl.operations.canary.run import Clock, ended_before, refuse_old_pass

        async with self._kept() as kept:
            ended = None if kept is None else ended_before(self.spec, kept)
            if kept is not None and ended is not None:
                refuse_old_pass(self.spec, kept, ended, Clock().now())
            self.report.resumed = kept is not None and kept.head is not None
            await self._end(ended or await self._run(kept), kept)

    async def _run(self, kept: Kept | None) -> Ended:
        from somactl.cli.canary_sources import sources
        from somactl.operations.canary.run import Clock, Run

        clock = Clock()
        found = sources(self.spec, self.session.settings, clock.now)
        run = Run(self.spec, found, kept, clock, self._tell)
        try:
            await run.begin()
            return await (run.once(self.running.reads) if self.running.once else run.go_on())
        except asyncio.CancelledError:
            self.report.complete = False  # `command` adds the code of the signal
            self.report.warnings.append("ended by a signal before the window was over, which is a hold")
            return await run.stopped()
        finally:
            for source in found:
                await source.close()

    @asynccontextmanager
    async def _kept(self) -> AsyncIterator[Kept | None]:
        """What is kept of this run, in a note of the store or in a file; None where nothing is."""
        from somactl.operations.canary.state import Kept

        place, restart = self.running.kept_in, self.running.restart
        if place is None:
            yield None
        elif place == STORE:
            async with self.session.store(fills=False) as store:
                self.report.store, self.report.namespace = store.name, store.namespace
                yield await Kept.open(store, self.spec, restart=restart)
        else:
            file = NotesFile(place, self.session.settings.namespace)
            try:
                yield await Kept.open(file, self.spec, restart=restart)
            finally:
                await file.close()

    def _tell(self, watch: Watch, now: float) -> None:
        """Show how far it is; with ndjson, what was seen."""
        if self.session.out.mode == "ndjson":
            for look in watch.looks[self._told :]:
                self.session.out.item(look)
            self._told = len(watch.looks)
        done = int(now - (watch.start or now))
        self.session.out.progress(Progress(done, "seconds of the window", int(self.spec.window)))

    async def _end(self, ended: Ended, kept: Kept | None, recording: Recording | None = None) -> None:
        from somactl.operations.canary.replay import taken
        from somactl.report.canary_distribution import distributed

        report = self.report
        report.verdict, report.looks = ended.verdict, ended.watch.looks
        report.warnings += _failures(ended.watch)
        report.ended_at = time.time()
        report.finish(ended.verdict.code)
        report.distribution = distributed(ended.watch.samples)
        self.written.keep_evidence(report, taken(ended.watch, recording), ended.watch.samples)
        self.session.done.append(report)  # a signal that ends a hook does not undo the verdict
        if ended.is_final:
            await self._run_hook(kept)
        self.written.keep_page(report)

    async def _run_hook(self, kept: Kept | None) -> None:
        from somactl.operations.canary.hooks import occasion_of, run_hook
        from somactl.operations.canary.run import Clock

        verdict = self.report.verdict
        assert verdict is not None
        on = occasion_of(verdict.outcome)
        command, seconds = self.hooks.command(on), self.hooks.seconds
        if command is None or (kept is not None and not await kept.claim_hook(Clock().now(), seconds)):
            return
        shell = self.hooks.hook_shell
        hook = await run_hook(on, command, to_json(verdict), seconds=seconds, shell=shell)
        self.report.hooks.append(hook)
        if hook.ended != "ok":
            self.report.warnings.append(f"the verdict stands; --on-{on} {hook.ended}: {hook.detail}")
        if kept is not None:
            await kept.hook_ended()


def _failures(watch: Watch) -> list[str]:
    """Which errors there were, of each arm."""
    warnings = []
    for arm in ARMS:
        counts = Counter(each.what for each in watch.samples if isinstance(each, Failure) and each.arm == arm)
        if counts:
            named = ", ".join(f"{count} {what}" for what, count in counts.most_common(_MOST_FAILURES))
            warnings.append(f"errors of the {arm}: {named}")
    return warnings

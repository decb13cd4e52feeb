"""The command that judges a rollout: canary-check."""

from __future__ import annotations

import time

from somactl.cli import inputs
from somactl.cli.canary import Baseline, Candidate, Limits, Times, What, given
from somactl.cli.command import Session, command
from somactl.core.canary_samples import ARMS, ArmName
from somactl.core.canary_spec import Spec
from somactl.core.canary_spec_file import read_spec
from somactl.report import CanaryReport, Report


@command(
    pushes=True,
    epilog="Exit 0: PASS. 3: FAIL. 4: INCONCLUSIVE, and 5: INSUFFICIENT, which both mean hold. 10: the spec "
    "is wrong. 11: a file cannot be read. 130, 143: ended by a signal, which is a hold.",
)
async def canary_check(
    session: Session, *, what: What, times: Times, baseline: Baseline, candidate: Candidate, limits: Limits
) -> Report:
    """Judge whether a rollout goes on: a candidate against a baseline and limits, looked at all the time.

    Each field of the spec is also a flag, which goes before it.
    """
    from somactl.operations.canary.recording import judge_recording, read_recording

    began = time.time()
    spec = _spec(what, given(times, baseline, candidate, limits))
    files: dict[ArmName, str] = {arm: spec.arms[arm].file or "" for arm in ARMS}
    verdict, watch = judge_recording(spec, read_recording(files, inputs.read_samples))
    report = CanaryReport(verdict=verdict, spec=spec, looks=watch.looks, recorded=True)
    report.started_at, report.ended_at = began, time.time()  # no store's: there are two, or none
    report.finish(verdict.code)
    session.done.append(report)
    return report


def _spec(what: What, flags: dict[str, str]) -> Spec:
    """Raises ConfigurationError, InvalidFile."""
    text = None if what.spec is None else inputs.read_spec(what.spec)
    name = "the flags" if what.spec is None else inputs.name_of(what.spec)
    return read_spec(text, name, {**what.replaced(), **flags})

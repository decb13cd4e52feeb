"""Replay of a canary check's evidence: whether the stored verdict follows from the numbers that stand in it.

    check(bundle, "canary.json")                # or it raises EvidenceRejected
    bundle.verdict                              # is the one to go by

Log E is computed again at the stored (n, s, q) and accepted within PRECISION, for lgamma differs between
libraries; which test it is, at which alpha and against which bar, follows from the spec alone.
"""

from __future__ import annotations

import math
from typing import Final

from somactl.core.canary import Judge
from somactl.core.canary_verdict import (
    CODES,
    PRECISION,
    CanaryVerdict,
    Criterion,
    Evidence,
    recomputed,
)
from somactl.report.canary_evidence import CanaryBundle
from somactl.report.sealed import refused

_MOST_COUNTED: Final = 10**13
_SAME: Final = 1e-9  # relative: of what the spec determines, so but for the last digits


class _Contradiction(Exception):
    pass


def check(bundle: CanaryBundle, name: str) -> None:
    """Raises EvidenceRejected, with the defect `inconsistent` or `other-evidence`."""
    verdict = bundle.verdict
    expected = Judge(bundle.spec).finish(recorded=True).criteria
    found, asked = [each.name for each in verdict.criteria], [each.name for each in expected]
    try:
        _require(found == asked, f"it judges {', '.join(found)}, and its spec asks for {', '.join(asked)}")
        for criterion, like in zip(verdict.criteria, expected, strict=True):
            _check_criterion(criterion, like, name)
        _check_outcome(verdict)
        _require(verdict.window == bundle.spec.window, "its window is not that of its spec")
    except _Contradiction as exc:
        raise refused(name, "inconsistent", str(exc)) from None


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _Contradiction(otherwise)


def _check_criterion(criterion: Criterion, like: Criterion, name: str) -> None:
    about, said = criterion.name, criterion.outcome
    for slot in ("failing", "passing"):
        evidence, expected = getattr(criterion, slot), getattr(like, slot)
        _require((evidence is None) == (expected is None), f"{about}: the {slot} evidence is missing")
        if evidence is not None:
            _check_evidence(evidence, expected, f"{about}, {slot}", name)
    if like.threshold is not None:
        _require(criterion.threshold == like.threshold, f"{about}: its threshold is not that of the spec")
    decisive = {"FAIL": criterion.failing, "PASS": criterion.passing}.get(said)
    shown = decisive is None or decisive.shows
    _require(shown, f"{about}: it says {said}, and its evidence does not show that")
    if about == "invariants" and criterion.value is not None and criterion.threshold is not None:
        agrees = (said == "FAIL") == (criterion.value > criterion.threshold)
        _require(agrees, f"{about}: it says {said}, and counts {criterion.value:g} violations")


def _check_evidence(evidence: Evidence, expected: Evidence, about: str, name: str) -> None:
    _require(evidence.test == expected.test, f"{about}: it is the test `{evidence.test}`")
    for part in ("p0", "k", "alpha", "bar"):
        stored, known = getattr(evidence, part), getattr(expected, part)
        same = math.isclose(stored, known, rel_tol=_SAME)
        _require(same, f"{about}: its {part} is {stored:g}, and by the spec it is {known:g}")
    if expected.baseline is None:
        _require(evidence.q == expected.q, f"{about}: its q is not the limit of the spec")
    _require((evidence.baseline is None) == (expected.baseline is None), f"{about}: an arm is missing")
    for tally in (evidence.candidate, evidence.baseline):
        if tally is not None:
            sound = 0 <= tally.s <= tally.n <= _MOST_COUNTED
            _require(sound, f"{about}: it counts {tally.s} of {tally.n} samples")
    again = recomputed(evidence)
    if not abs(again - evidence.log_e) <= PRECISION:
        what = f"{about}: log E is {again:.9g} at its counts, and it says {evidence.log_e:.9g}"
        raise refused(name, "other-evidence", what, recomputed=again, stored=evidence.log_e)


def _check_outcome(verdict: CanaryVerdict) -> None:
    """What is decided follows from what the criteria say."""
    said, outcomes = verdict.outcome, {criterion.outcome for criterion in verdict.criteria}
    told = f"it says {said}, and of its criteria {' and '.join(sorted(outcomes))}"
    _require(verdict.code == CODES[said], f"it says {said}, and the code {verdict.code}")
    _require((said == "FAIL") == ("FAIL" in outcomes), told)
    if said == "PASS":
        _require(outcomes == {"PASS"}, told)
        _require(not verdict.troubles, "it says PASS, and that a source could not find out something")
        _require(verdict.ended, "it says PASS before the end of the window")
    decided = verdict.decided_by
    if decided is not None:
        agrees = (decided.outcome, decided.why) == (said, verdict.why)
        _require(agrees, f"it says {said}, and {decided.name}, which decided, {decided.outcome}")

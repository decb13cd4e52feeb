"""Each criterion of a canary check: what it says and why, its evidence, and what it saw of both arms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from somactl.core.canary_samples import ARMS
from somactl.core.canary_verdict import (
    ArmFacts,
    CanaryVerdict,
    Criterion,
    Evidence,
    Outcome,
    as_duration,
    in_unit,
)
from somactl.report.canary import CanaryReport
from somactl.report.canary_page import plots
from somactl.report.page.html import Child, Html, el, name
from somactl.report.page.style import Tone, mark
from somactl.report.page.words import UNKNOWN

TONES: Final[dict[Outcome, Tone]] = {
    "PASS": "ok",
    "FAIL": "bad",
    "INCONCLUSIVE": "warn",
    "INSUFFICIENT": "warn",
}


def criteria(report: CanaryReport, verdict: CanaryVerdict) -> Iterator[Html]:
    yield el("h2", "Criteria")
    heads = ["Criterion", "Says", "Value", "Threshold", "Fails, log E", "Holds, log E"]
    yield el(
        "table",
        el(
            "caption",
            "Evidence is log E against its bar, log 1/alpha: what reaches it is shown.",
        ),
        el("thead", el("tr", (el("th", each, scope="col") for each in heads))),
        el("tbody", (_row(each, heads) for each in verdict.criteria)),
    )
    for criterion in verdict.criteria:
        yield _criterion(report, criterion, criterion.name == verdict.criterion)


def _says(criterion: Criterion) -> Html:
    if criterion.why == "running":
        return el("span", f"{criterion.outcome}, not yet decided", class_="aside")
    tone = TONES[criterion.outcome]
    return el("span", mark(tone), criterion.outcome, class_=f"word {tone}")


def _row(criterion: Criterion, heads: list[str]) -> Html:
    cells: list[Child] = [
        _says(criterion),
        _value(criterion.value, criterion),
        _value(criterion.threshold, criterion),
        _evidence(criterion.failing),
        _evidence(criterion.passing),
    ]
    return el(
        "tr",
        el("th", el("a", criterion.name, href=f"#{criterion.name}"), scope="row"),
        (el("td", cell, data_label=head) for cell, head in zip(cells, heads[1:], strict=True)),
    )


def _value(value: float | None, criterion: Criterion) -> Child:
    return _known(value, criterion) or UNKNOWN


def _known(value: float | None, criterion: Criterion) -> Child:
    return None if value is None else in_unit(value, criterion.unit)


def _evidence(evidence: Evidence | None) -> Child:
    if evidence is None:
        return el("span", "no test", class_="aside")
    sign = "≥" if evidence.shows else "≈" if evidence.is_near else "<"
    return f"{evidence.log_e:.2f} {sign} {evidence.bar:.2f}"


def _criterion(report: CanaryReport, criterion: Criterion, decided: bool) -> Html:
    reason = criterion.reason[:1].upper() + criterion.reason[1:]
    parts: list[Child] = [
        el("h3", criterion.name, " ", _says(criterion), id=criterion.name),
        el("p", name(f"{reason}.", "said"), el("strong", " It decided.") if decided else None),
        _remaining(criterion),
        _arms(criterion),
        _counts(criterion),
        _counted("fails", criterion, criterion.failing),
        _counted("holds", criterion, criterion.passing),
    ]
    picture = plots.evidence(report, criterion)
    body = el("div", el("div", parts), picture, class_="charts") if picture else el("div", parts)
    return el("section", body, class_="criterion", aria_labelledby=criterion.name)


def _counted(claim: str, criterion: Criterion, evidence: Evidence | None) -> Html | None:
    """What a replay computes log E from."""
    if evidence is None:
        return None
    tallies = (("candidate", evidence.candidate), ("baseline", evidence.baseline))
    counts = " and ".join(f"{each.s:,} of {each.n:,} of the {arm}" for arm, each in tallies if each)
    is_beyond = criterion.unit == "seconds" and evidence.q is not None
    beyond = f" beyond {in_unit(evidence.q, 'seconds')}" if is_beyond else ""
    return el("p", f"Evidence that it {claim}: {_evidence(evidence)}, from {counts}{beyond}.", class_="note")


def _remaining(criterion: Criterion) -> Html | None:
    if criterion.remaining is not None:
        return el("p", f"At this rate it is shown in some {as_duration(criterion.remaining)}.", class_="note")
    if not criterion.never:
        return None
    return el("p", "At these figures it is never shown: ", name(criterion.never, "said"), ".", class_="note")


def _counts(criterion: Criterion) -> Html | None:
    if not criterion.counts:
        return None
    told = (f"{what.replace('.', ': ')} {n:,}" for what, n in criterion.counts.items())
    return el("p", ", ".join(told), class_="note")


def _arms(criterion: Criterion) -> Html | None:
    if not criterion.arms:
        return None
    facts = [(arm, criterion.arms[arm]) for arm in ARMS if arm in criterion.arms]
    rows: list[tuple[str, list[Child]]] = [
        ("Value", [_known(each.value, criterion) for _, each in facts]),
        ("Confidence sequence", [_bounds(each) for _, each in facts]),
        ("Samples", [f"{each.samples:,}" for _, each in facts]),
        ("Judged", [_judged(each) for _, each in facts]),
        ("Autocorrelation", [_autocorrelation(each) for _, each in facts]),
        ("Without samples", [_empty(each) for _, each in facts]),
    ]
    arms = [arm for arm, _ in facts]
    heads = el("tr", el("td"), (el("th", arm, scope="col") for arm in arms))
    body = el("tbody", (_arms_row(what, cells, arms) for what, cells in rows))
    return el("table", el("thead", heads), body, class_="arms")


def _arms_row(what: str, cells: list[Child], arms: Sequence[str]) -> Html | None:
    if not any(cells):
        return None
    each = (el("td", cell or "-", data_label=arm) for cell, arm in zip(cells, arms, strict=True))
    return el("tr", el("th", what, scope="row"), each)


def _bounds(facts: ArmFacts) -> Child:
    return None if facts.low is None else plots.between(facts.low, facts.high)


def _judged(facts: ArmFacts) -> Child:
    if not facts.judged:
        return "none"
    if facts.stride is None:
        return f"{facts.judged:,}: no thinning makes them independent"
    if facts.stride > 1:
        return f"{facts.judged:,}: each {facts.stride}th, for neighbours depend"
    if facts.divisor > 1.0:
        return f"{facts.judged:,}: {facts.divisor:.3g} count for one, for they come in bursts"
    return f"{facts.judged:,}: all"


def _autocorrelation(facts: ArmFacts) -> Child:
    if facts.autocorrelation is None:
        return None
    beyond = "" if facts.exceedances is None else f", {facts.exceedances:.2f} beyond the quantile"
    return f"{facts.autocorrelation:.2f} of ranks{beyond}"


def _empty(facts: ArmFacts) -> Child:
    if not facts.empty_tenths:
        return None
    if len(facts.empty_tenths) == 10:
        return "in the whole window"
    word = "tenth" if len(facts.empty_tenths) == 1 else "tenths"
    return f"in {word} {', '.join(map(str, facts.empty_tenths))} of the window"

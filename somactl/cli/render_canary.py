"""The report of a canary check as lines for people: the verdict and its reason first."""

from __future__ import annotations

from collections.abc import Iterator

from somactl.cli.text import columns
from somactl.core.canary_verdict import CanaryVerdict, Criterion, Evidence, as_duration, in_unit
from somactl.report import CanaryReport


def canary_view(report: CanaryReport) -> list[str]:
    verdict = report.verdict
    if verdict is None:
        return ["nothing was judged"]
    lines = [verdict.first_line(), *columns(_HEADER, [_row(each) for each in verdict.criteria])]
    lines += [line for each in verdict.criteria for line in _more(each)]
    lines += [*_troubles(verdict), _samples(verdict)]
    lines += ["replayed: its log E was computed again, and nothing contradicts it"] if report.replayed else []
    lines += [f"evidence: {report.evidence} (digest {report.evidence_digest})"] if report.evidence else []
    lines += [f"report: {report.html}"] if report.html else []
    lines += [_hook(report)] if report.hooks else []
    return lines


_HEADER = ["CRITERION", "VERDICT", "CANDIDATE", "BASELINE", "AT MOST", "LOG E / BAR", "SAMPLES", "WHY"]


def _row(each: Criterion) -> list[str]:
    arms = each.arms
    baseline = arms["baseline"].value if "baseline" in arms else None
    samples = "/".join(f"{arms[arm].samples:,}" for arm in ("candidate", "baseline") if arm in arms)
    return [
        each.name,
        each.outcome,
        in_unit(each.value, each.unit),
        "-" if baseline is None else in_unit(baseline, each.unit),
        in_unit(each.threshold, each.unit),
        _evidence(each.decisive),
        samples or "-",
        each.why,
    ]


def _evidence(found: Evidence | None) -> str:
    return "-" if found is None else f"{found.log_e:.2f} / {found.bar:.2f}"


def _more(each: Criterion) -> Iterator[str]:
    """How long it takes, why it never will, and what became of samples that depend on each other."""
    if each.remaining is not None:
        yield f"{each.name}: shown after some {as_duration(each.remaining)} more at this rate"
    if each.never is not None:
        yield f"{each.name}: never at these figures: {each.never}"
    for arm, facts in each.arms.items():
        if facts.stride is None or facts.stride > 1 or facts.divisor > 1.0:
            rest = "none can be used" if facts.stride is None else f"{facts.judged:,} are judged"
            depend = (
                "" if facts.autocorrelation is None else f" (autocorrelation {facts.autocorrelation:.2f})"
            )
            yield f"{each.name}: samples of the {arm} depend on each other{depend}: {rest}"


def _troubles(verdict: CanaryVerdict) -> Iterator[str]:
    for each in verdict.troubles:
        when = f"{each.first:.0f} s" if each.count == 1 else f"{each.first:.0f} s to {each.last:.0f} s"
        detail = f": {each.detail}" if each.detail else ""
        yield f"trouble: {each.arm}, {each.what}, {each.count} times, at {when}{detail}"


def _samples(verdict: CanaryVerdict) -> str:
    counts = ", ".join(f"{count:,} of the {arm}" for arm, count in verdict.samples.items())
    beyond = f"; {verdict.outside:,} outside the window" if verdict.outside else ""
    watched = (verdict.at or 0.0) - (verdict.start or 0.0)
    return f"samples: {counts}{beyond}, in {as_duration(watched)} of {as_duration(verdict.window)}"


def _hook(report: CanaryReport) -> str:
    told = [
        f"--on-{hook.on} {hook.ended}" + (f" ({hook.detail})" if hook.detail else "") for hook in report.hooks
    ]
    return f"hooks: {'; '.join(told)}"

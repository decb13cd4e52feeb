"""The whole report of a canary check, as one document that refers to nothing outside itself."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Final

import msgspec

from somactl import __version__
from somactl.core.canary_samples import ARMS
from somactl.core.canary_spec import Spec
from somactl.core.canary_verdict import CanaryVerdict, Outcome, as_duration, in_unit
from somactl.report.canary import CanaryHook, CanaryReport
from somactl.report.canary_evidence import without_secrets
from somactl.report.canary_page import plots
from somactl.report.canary_page.criteria import TONES, criteria
from somactl.report.page.html import Child, Html, el, name, opened
from somactl.report.page.style import BASE, icon, mark, policy
from somactl.report.page.words import plural
from somactl.suggestion import command_line, run

STYLE: Final = BASE + files(__package__).joinpath("canary.css").read_text(encoding="utf-8")
MEANS: Final[dict[Outcome, str]] = {
    "PASS": "The rollout may go on.",
    "FAIL": "Roll back: the candidate breaks what was asked of it.",
    "INCONCLUSIVE": "Hold: the rollout neither goes on nor back, and more of the same will not decide it.",
    "INSUFFICIENT": "Hold: the rollout neither goes on nor back, for something is missing.",
}


def document(report: CanaryReport) -> bytes:
    """HTML in UTF-8, readable without scripts, in light and dark, at 360 pixels and up.

    Of a report that has a verdict. The same report gives the same bytes.
    """
    assert report.verdict is not None
    return "".join(_document(report, report.verdict)).encode(errors="backslashreplace")


def _document(report: CanaryReport, verdict: CanaryVerdict) -> Iterator[str]:
    yield "<!doctype html>\n"
    yield opened("html", lang="en")
    yield _head(verdict)
    yield Html("\n<body>")
    yield _top(verdict)
    yield Html("<main>")
    yield _facts(report, verdict)
    yield from _troubles(verdict)
    yield from _latencies(report)
    yield from criteria(report, verdict)
    yield from _hooks(report.hooks)
    yield from _asked(report.spec)
    yield Html("</main>")
    yield _footer(report, verdict)
    yield Html("</body></html>\n")


def _head(verdict: CanaryVerdict) -> Html:
    return el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy(STYLE)),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="referrer", content="no-referrer"),
        el("title", f"{verdict.outcome}: canary-check, somactl"),
        el("link", rel="icon", href=icon(TONES[verdict.outcome])),
        el("style", Html(STYLE)),
    )


def _top(verdict: CanaryVerdict) -> Html:
    tone = TONES[verdict.outcome]
    reason = verdict.reason[:1].upper() + verdict.reason[1:]
    return el(
        "header",
        el(
            "div",
            el("h1", mark(tone), verdict.outcome),
            el("p", name(f"{reason}.", "said"), class_="sentence"),
            el("p", MEANS[verdict.outcome]),
            class_=f"verdict {tone}",
        ),
    )


def _facts(report: CanaryReport, verdict: CanaryVerdict) -> Html:
    watched = (verdict.at or 0.0) - (verdict.start or 0.0)
    alpha = report.spec.alpha if report.spec else None
    facts: list[tuple[str, Child, Child]] = [
        (
            "Decided by",
            name(verdict.criterion),
            f"of {plural(len(verdict.criteria), 'criterion', 'criteria')}",
        ),
        ("Watched", as_duration(watched), f"of a window of {as_duration(verdict.window)}"),
        *((f"Samples, {arm}", f"{verdict.samples.get(arm, 0):,}", None) for arm in ARMS),
        ("False alarms", in_unit(alpha, "share"), "at most, and false passes alike"),
        ("Exit code", str(verdict.code), "recorded samples" if report.recorded else None),
    ]
    if verdict.outside:
        facts.append(("Outside of the window", f"{verdict.outside:,}", "samples, left out"))
    return el("dl", (_fact(*each) for each in facts), class_="facts")


def _fact(what: str, value: Child, more: Child) -> Html:
    aside = el("dd", more, class_="aside") if more else None
    return el("div", el("dt", what), el("dd", value), aside)


def _troubles(verdict: CanaryVerdict) -> Iterator[Html]:
    if not verdict.troubles:
        return
    yield el("h2", "What could not be found out")
    yield el(
        "ul",
        (
            el(
                "li",
                mark("warn"),
                el("span", f"{each.arm}: {each.what}", class_="word"),
                f", {plural(each.count, 'time')}, first after {as_duration(each.first)}",
                f" and last after {as_duration(each.last)}. " if each.count > 1 else ". ",
                name(each.detail, "said"),
            )
            for each in verdict.troubles
        ),
        class_="list",
    )


def _latencies(report: CanaryReport) -> Iterator[Html]:
    asked = report.spec.criteria.latency if report.spec else None
    label = f"p{100 * asked.quantile:.9g}" if asked else "p95"
    pictures = [plots.quantile(report, label), plots.distribution(report, label)]
    if any(pictures):
        yield el("h2", "Latency")
        yield el("div", pictures, class_="charts")


def _hooks(hooks: list[CanaryHook]) -> Iterator[Html]:
    if not hooks:
        return
    yield el("h2", "Commands that were run")
    yield el("ul", (_hook(each) for each in hooks), class_="list")


def _hook(hook: CanaryHook) -> Html:
    tone = "ok" if hook.ended == "ok" else "warn"
    code = "" if hook.code is None else f", exit code {hook.code}"
    return el(
        "li",
        el("span", mark(tone), f"on {hook.on}: {hook.ended}{code}", class_=f"word {tone}"),
        f", after {hook.seconds:.1f} s: ",
        el("code", name(hook.command, "said")),
        [" ", name(hook.detail, "said")] if hook.detail else None,
    )


def _asked(spec: Spec | None) -> Iterator[Html]:
    if spec is None:
        return
    leaves = _leaves(msgspec.to_builtins(without_secrets(spec)))
    told = ((path, f"{value}") for path, value in leaves if value is not None)
    terms = (el("div", el("dt", name(path)), el("dd", name(value))) for path, value in told)
    summary = el("summary", "The spec, times in seconds and shares of 1")
    yield el("h2", "What was asked")
    yield el("details", summary, el("dl", terms, class_="spec"))


def _leaves(tree: dict[str, object], path: str = "") -> Iterator[tuple[str, object]]:
    for member, value in tree.items():
        where = f"{path}.{member}" if path else member
        if isinstance(value, dict):
            yield from _leaves(value, where)
        else:
            yield where, value


def _footer(report: CanaryReport, verdict: CanaryVerdict) -> Html:
    evidence, digest = report.evidence, report.evidence_digest or ""
    written: list[Child] = []
    if evidence is not None:
        replay = command_line(run("canary-check", replay=evidence), {})
        written = [
            el("p", "Evidence: ", name(evidence), ", ", name(digest)),
            el("p", "To compute it again: ", el("code", replay)),
        ]
    return el("footer", written, el("p", f"somactl {__version__}, judge {verdict.judge}"))

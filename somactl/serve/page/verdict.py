"""The one sentence on top of the status page, the reasons below it, and what to do about each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from somactl.report.health import Cause, HealthReport, Reason
from somactl.report.page.html import Child, Html, el, name, opened
from somactl.report.page.style import Tone, mark
from somactl.report.page.words import duration, plural, since
from somactl.serve.page.view import View
from somactl.suggestion import command_line, run

MAX_REASONS = 20
_DARK = (
    "Dark mode is on (SFM_DARK_MODE): all is measured and said, nothing is refused for an invariant, "
    "and health never fails on one."
)
_DRAINING = "This process is about to end: it is not ready for more (/readyz says 503)."


@dataclass(frozen=True, slots=True)
class Verdict:
    """The word, how it looks, and why. about: the reason that comes first, if there is one."""

    word: str
    tone: Tone
    sentence: str
    about: Reason | None = None


def verdict(report: HealthReport) -> Verdict:
    """What is true of all that is watched, for a person."""
    first = _first(report.reasons)
    if not report.ok and all(each.cause == "starting" for each in report.reasons if each.fails):
        return Verdict(
            "STARTING", "warn", "Nothing is called good before it is proven: " + _so_far(report), first
        )
    if not report.ok:
        return Verdict("NOT OK", "bad", _why(report, first), first)
    if report.dark and report.rho.psd_ok is False:
        return Verdict(
            "DARK", "dark", f"{_why(report, first)} In dark mode health does not fail for it.", first
        )
    if report.degraded:
        return Verdict("DEGRADED", "warn", _why(report, first), first)
    return Verdict("OK", "ok", _all_is_well(report), first)


def _so_far(report: HealthReport) -> str:
    watched = sum(each.rho.watched for each in report.namespaces.values())
    proven = sum(each.rho.proven for each in report.namespaces.values())
    return f"{proven:,} of {plural(watched, 'watched matrix', 'watched matrices')} so far."


def _first(found: list[Reason]) -> Reason | None:
    """The first one; of several alike that which is about the authority, for its copies follow from it."""
    alike = [each for each in found if (each.cause, each.fails) == (found[0].cause, found[0].fails)]
    return min(alike, key=lambda each: each.service == "cache", default=None)


def _why(report: HealthReport, first: Reason | None) -> str:
    if first is None:
        return "No reason is known."
    more = len(report.reasons) - 1
    several = len(report.namespaces) > 1 and first.namespace is not None
    text = (f"in {first.namespace}: " if several else "") + first.message.rstrip(".")
    return text[:1].upper() + text[1:] + (f", and {plural(more, 'more reason')}." if more else ".")


def _all_is_well(report: HealthReport) -> str:
    watched = sum(each.rho.watched for each in report.namespaces.values())
    oldest = max((each.rho.oldest_seconds or 0.0 for each in report.namespaces.values()), default=0.0)
    what = (
        "The one watched matrix is a density matrix"
        if watched == 1
        else (f"All {watched:,} watched matrices are density matrices")
    )
    return f"{what}, each proven within the last {duration(oldest)}."


def top(view: View, said: Verdict) -> Html:
    """The verdict, and the banners of dark mode and of a process that is about to end."""
    about = said.about
    began = (
        None
        if about is None or about.since_at is None
        else el("p", "Since ", since(about.since_at, view.now))
    )
    return el(
        "header",
        el(
            "div",
            el("h1", mark(said.tone), said.word),
            el("p", name(said.sentence, "said"), class_="sentence"),
            began,
            None if about is None else _what_to_do(about),
            class_=f"verdict {said.tone}",
        ),
        _banner(_DARK, "dark") if view.report.dark else None,
        _banner(_DRAINING, "warn") if view.draining else None,
    )


def _banner(text: str, tone: Tone) -> Html:
    return el("p", mark(tone), text, class_=f"banner {tone}", role="note")


def reasons(view: View) -> Iterator[Html]:
    """All that is not as it should be now, what fails first; one alone stands on top already."""
    found = view.report.reasons
    if len(found) < 2:
        return
    more = len(found) - MAX_REASONS
    several = len(view.report.namespaces) > 1
    yield opened("section", aria_labelledby="reasons")
    yield el("h2", "What is wrong now", id="reasons")
    yield el("ul", (_reason(each, view.now, several) for each in found[:MAX_REASONS]), class_="reasons")
    if more > 0:
        yield el("p", f"And {plural(more, 'more reason')}: see /healthz.", class_="note")
    yield Html("</section>")


def _reason(reason: Reason, now: float, several: bool) -> Html:
    tone, word = ("bad", "fails") if reason.fails else ("warn", "degrades")
    command = next_command(reason)
    return el(
        "li",
        el(
            "p",
            el("span", mark(tone), f"{reason.cause}, {word}", class_=f"word {tone}"),
            [" in ", name(reason.namespace)] if several and reason.namespace else None,
            ": ",
            name(reason.message, "said"),
            el("span", ", since ", since(reason.since_at, now), class_="aside") if reason.since_at else None,
        ),
        el("p", el("code", command)) if command else None,
    )


def _what_to_do(reason: Reason) -> Html | None:
    """The command that shows more, and the runbook."""
    command, runbook = next_command(reason), _runbook(reason)
    parts: list[Child] = []
    if command is not None:
        parts.append(el("div", el("dt", "Next"), el("dd", el("code", command))))
    if runbook is not None:
        parts.append(el("div", el("dt", "Runbook"), el("dd", runbook)))
    return el("dl", parts, class_="do") if parts else None


def _runbook(reason: Reason) -> Html | None:
    page = reason.runbook
    if page is None:
        return None
    if page.startswith(("https://", "http://")):
        return el("a", page, href=page, rel="noreferrer")
    words = [f"KEY={reason.key}"] if reason.key else None
    topic = PurePosixPath(page).stem
    return el("code", command_line(run("explain", topic, with_=words, namespace=reason.namespace), {}))


_BY_CAUSE: dict[Cause, tuple[str, dict[str, object]]] = {
    "violated": ("verify-psd", {}),
    "undecided": ("verify-psd", {"method": "eigen"}),
    "unreadable": ("doctor", {}),
    "authority-away": ("doctor", {}),
    "cache-away": ("doctor", {}),
    "namespace-gone": ("doctor", {}),
    "cache-differs": ("cache-warm", {"reconcile": True, "dry_run": True}),
    "nothing-watched": ("ls", {}),
    "too-many": ("ls", {}),
}
_ABOUT_A_KEY = {"violated", "undecided"}


def next_command(reason: Reason) -> str | None:
    """One that only looks, for a shell with somactl's settings; None where the runbook says all."""
    if reason.cause not in _BY_CAUSE or (reason.cause in _ABOUT_A_KEY and reason.key is None):
        return None
    command, options = _BY_CAUSE[reason.cause]
    keys = [reason.key] if reason.key is not None and reason.cause in _ABOUT_A_KEY else []
    options = {**options, "namespace": reason.namespace}
    if reason.cause in _ABOUT_A_KEY and reason.service == "cache":
        options["from"] = "cache"
    return command_line(run(command, *keys, **options), {})

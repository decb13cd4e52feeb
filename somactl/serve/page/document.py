"""The whole status page, as one document that refers to nothing outside itself."""

from __future__ import annotations

from collections.abc import Iterator

from somactl.report.page.html import Child, Html, el, name, opened
from somactl.report.page.style import icon, mark
from somactl.report.page.words import UNKNOWN, count, duration, moment, number, plural
from somactl.serve.page import matrices, surroundings
from somactl.serve.page.style import STYLE
from somactl.serve.page.verdict import Verdict, reasons, top, verdict
from somactl.serve.page.view import View


def document(view: View) -> Iterator[str]:
    """HTML for people, in pieces: readable without scripts, in light and dark, at 360 pixels and up."""
    said = verdict(view.report)
    yield "<!doctype html>\n"
    yield opened("html", lang="en")
    yield _head(view, said)
    yield Html("\n<body>")
    yield top(view, said)
    yield Html("<main>")
    yield _facts(view)
    yield from reasons(view)
    yield from matrices.namespaces(view)
    yield from matrices.keys(view)
    yield from surroundings.reads(view)
    yield from surroundings.services(view)
    yield from surroundings.past(view)
    yield Html("</main>")
    yield _footer(view)
    yield Html("</body></html>\n")


def _head(view: View, said: Verdict) -> Html:
    names = list(view.report.namespaces)
    whose = names[0] if len(names) == 1 else plural(len(names), "namespace")
    return el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="refresh", content=view.refresh_seconds) if view.refresh_seconds else None,
        el("title", f"{said.word}: {whose}, somactl"),
        el("link", rel="icon", href=icon(said.tone)),
        el("style", Html(STYLE)),
    )


def _facts(view: View) -> Html:
    report = view.report
    rho, prover, least = report.rho, report.prover, view.tolerances
    where: Child = [" in ", name(rho.namespace)] if len(report.namespaces) > 1 else None
    facts: list[tuple[str, Child, Child]] = [
        ("Density matrices", _psd(rho.psd_ok), ["the worst", where] if where else "of all that is watched"),
        ("Proven", [count(rho.proven), " of ", count(rho.watched)], where),
        ("Lowest λ min bound", number(rho.lambda_min_bound), f"at least {-least.psd:g}"),
        ("Largest trace error", number(rho.trace_error), f"at most {least.trace:g}"),
        ("Last proof", _ago(rho.age_seconds), ["the oldest ", _ago(rho.oldest_seconds)]),
        ("Prover", prover.state, _rounds(view)),
        ("Up", duration(view.now - report.started_at), ["since ", moment(report.started_at, view.now)]),
    ]
    return el("dl", (_fact(*each) for each in facts), class_="facts")


def _fact(what: str, value: Child, more: Child) -> Html:
    return el("div", el("dt", what), el("dd", value), el("dd", more, class_="aside"))


def _psd(psd_ok: bool | None) -> Child:
    if psd_ok is None:
        return UNKNOWN
    tone, text = ("ok", "all are") if psd_ok else ("bad", "not all are")
    return el("span", mark(tone), text, class_=tone)


def _ago(seconds: float | None) -> Child:
    return UNKNOWN if seconds is None else [duration(seconds), " ago"]


def _rounds(view: View) -> Child:
    prover = view.report.prover
    restarts = plural(prover.restarts, "restart")
    return (
        restarts if prover.round_seconds is None else [duration(prover.round_seconds), " a round, ", restarts]
    )


def _footer(view: View) -> Html:
    every, failed = view.refresh_seconds, view.report.prover.last_failure
    how = f", made anew every {every} s" if every else ""
    links = [
        el("a", "hold still", href="/?refresh=off") if every else el("a", "refresh by itself", href="/"),
        *(el("a", path, href=path) for path in ("/healthz", "/readyz", "/metrics")),
    ]
    return el(
        "footer",
        el("p", "The prover failed last: ", name(failed, "said")) if failed else None,
        el("p", f"somactl {view.report.version}, as of ", moment(view.now, view.now), how),
        el("nav", links, aria_label="Other views"),
    )

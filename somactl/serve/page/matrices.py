"""What the status page says of namespaces and keys: their verdicts, their numbers, and a day of those."""

from __future__ import annotations

from collections.abc import Iterator

from somactl.report.health import NamespaceHealth, WatchedKey
from somactl.report.page.html import Child, Html, el, name
from somactl.report.page.words import UNKNOWN, count, duration, moment, number, plural, share
from somactl.report.pushing import BacklogView
from somactl.serve.page.tables import Column, aside, more_than_shown, section, table, under, word
from somactl.serve.page.view import MAX_ROWS, Row, View, is_unread
from somactl.serve.state import NamespaceExtras

LONG_KEY = 120
"""Characters; a longer one scrolls in its place."""
_BOUND = Column("λ min bound, a day", True, "λ min")
_TRACE = Column("Trace error, a day", True, "trace")
_NAMESPACES = (
    Column("Namespace"),
    Column("Verdict", label=""),
    Column("Proven", True),
    _BOUND,
    _TRACE,
    Column("Oldest proof", True),
    Column("Version", True),
    Column("Last audit", True),
    Column("Events", True),
)
_KEYS = (
    Column("Key"),
    Column("Verdict", label=""),
    _BOUND,
    _TRACE,
    Column("Version", True),
    Column("Read", True),
    Column("Last good, UTC", True, "good"),
)


def namespaces(view: View) -> Iterator[Html]:
    found = sorted(
        view.report.namespaces.items(), key=lambda each: (each[1].ok, not each[1].degraded, each[0])
    )
    more = len(found) - MAX_ROWS
    return section(
        "Namespaces",
        table(_NAMESPACES, (_namespace(view, *each) for each in found[:MAX_ROWS])),
        more_than_shown(f"And {plural(more, 'more namespace')}, none worse than these.", more),
    )


def _namespace(view: View, namespace: str, health: NamespaceHealth) -> list[Child]:
    rho, extras = health.rho, view.extras.get(namespace) or NamespaceExtras()
    bound, trace = view.pictures.of(view.history.worst(namespace), view.at)
    told = extras.told
    known = (rho.sample_version, None if told is None else told.version)  # the last is asked for now and then
    head = max((each for each in known if each is not None), default=None)
    return [
        [name(namespace), under("incarnation ", name(rho.incarnation)) if rho.incarnation else None],
        _of_namespace(health),
        [count(rho.proven), under(f"of {rho.watched:,}")],
        _with_picture(bound, rho.lambda_min_bound),
        _with_picture(trace, rho.trace_error),
        [duration(rho.oldest_seconds), under("good ", moment(rho.last_good_at, view.now))],
        [count(rho.sample_version), under("head ", count(head))],
        _audit(view, extras),
        UNKNOWN if told is None or told.events is None else _events(view, told.events),
    ]


def _of_namespace(health: NamespaceHealth) -> Html:
    if not health.ok:
        starting = all(each.cause == "starting" for each in health.reasons if each.fails)
        return word("warn", "starting") if starting else word("bad", "not ok")
    if health.rho.psd_ok is False:
        return word("dark", "dark")
    return word("warn", "degraded") if health.degraded else word("ok", "ok")


def _audit(view: View, extras: NamespaceExtras) -> Child:
    told = extras.told
    if told is None:
        return UNKNOWN
    at, ledger = told.last_audit_at, told.ledger
    when: Child = "never" if at is None else [duration(view.now - at), " ago"]
    if ledger is None:
        return when
    cycle = None if ledger.cycle_seconds is None else ["a cycle in ", duration(ledger.cycle_seconds)]
    bad = word("bad", f"{ledger.known_bad:,} known bad") if ledger.known_bad else None
    return [when, under(share(ledger.share_read), " read"), under(cycle) if cycle else None, bad]


def _events(view: View, events: BacklogView) -> Child:
    if not events.publishing:
        return aside("not published")
    oldest = None if events.oldest_at is None else under("oldest ", duration(view.now - events.oldest_at))
    dropped = word("warn", f"{events.dropped:,} dropped") if events.dropped else None
    return [count(events.backlog), " waiting", oldest, dropped]


def keys(view: View) -> Iterator[Html]:
    if not view.rows:
        return section("Watched keys", el("p", "No key is watched yet.", class_="note"))
    several = len(view.report.namespaces) > 1
    more = view.keys - len(view.rows)
    return section(
        "Watched keys",
        table(_KEYS, (_key(view, each, several) for each in view.rows)),
        more_than_shown(f"And {plural(more, 'more key')}, none worse than these.", more),
    )


def _key(view: View, row: Row, several: bool) -> list[Child]:
    worst = row.worst
    bound, trace = view.pictures.of(view.history.of(row.namespace, row.key), view.at)
    with_store = len(row.found) > 1 or worst.store == "cache"
    return [
        [_long(row.key), under("in ", name(row.namespace)) if several else None],
        [el("div", _of_key(each, with_store)) for each in row.found],
        _with_picture(bound, worst.lambda_min_bound),
        _with_picture(trace, worst.trace_error),
        count(worst.version),
        UNKNOWN if worst.age_seconds is None else [duration(worst.age_seconds), " ago"],
        moment(worst.last_good_at, view.now, zone=False),
    ]


def _long(key: str) -> Html:
    """A long one can be reached from the keyboard, to be scrolled."""
    if len(key) <= LONG_KEY:
        return el("div", name(key), class_="key")
    return el("div", name(key), class_="key", tabindex=0, role="group", aria_label="a long key")


_TONES = {
    "valid": "ok",
    "clampable": "ok",
    "violated": "bad",
    "corrupt": "bad",
    "contradicting": "bad",
    "undecided": "warn",
    "unreadable": "warn",
    "stale": "warn",
}


def _of_key(found: WatchedKey, with_store: bool) -> list[Child]:
    if is_unread(found):
        return [word("warn", "not read yet")]
    dark = ", admitted in the dark" if found.dark else ""
    return [
        word(_TONES.get(found.outcome, "warn"), found.outcome + dark),
        aside("in ", name(found.store)) if with_store else None,
        under(name("; ".join(found.reasons)[:300], "said")) if found.reasons else None,
    ]


def _with_picture(picture: Html, value: float | None) -> Html:
    return el("div", picture, el("span", number(value), class_="number"), class_="spark")

"""What else the status page says: how long reads take, which services answer, and what was wrong before."""

from __future__ import annotations

from collections.abc import Iterator

from somactl.report.health import PastReason, ServiceHealth
from somactl.report.page.html import Child, Html, el, name
from somactl.report.page.words import count, milliseconds, moment, plural, since
from somactl.serve.page.tables import Column, aside, more_than_shown, section, table, word
from somactl.serve.page.view import MAX_ROWS, View
from somactl.serve.state import NamespaceExtras

MAX_PAST = 30
PROMISE_SECONDS = 0.06
"""In which a read is promised to end, 95 times of 100."""
_QUANTILES = ("p50", "p95", "p99", "max")
_READS = (
    Column("Namespace"),
    Column("Reads", True),
    *(Column(each, True) for each in _QUANTILES),
    Column("95 of 100 within 60 ms", True, "within 60 ms"),
)
_SERVICES = (
    Column("Service"),
    Column("Now", label=""),
    Column("Since", wide=True),
    Column("Detail", label="", wide=True),
)
_PAST = (
    Column("What"),
    Column("Message", label="", wide=True),
    Column("Times", True),
    Column("First, UTC", True, "first"),
    Column("Last, UTC", True, "last"),
)


def reads(view: View) -> Iterator[Html]:
    found = [(each, extras) for each, extras in view.extras.items() if extras.reads_counted]
    if not found:
        return section("Reads", el("p", "None was measured yet.", class_="note"))
    found.sort(key=lambda each: -each[1].reads.get("p95", 0.0))
    more = len(found) - MAX_ROWS
    return section(
        "Reads",
        table(_READS, (_reads(*each) for each in found[:MAX_ROWS]), "The prover's last reads of one value."),
        more_than_shown(f"And {plural(more, 'more namespace')}, none slower than these.", more),
    )


def _reads(namespace: str, extras: NamespaceExtras) -> list[Child]:
    kept = extras.reads.get("p95", 0.0) <= PROMISE_SECONDS
    return [
        name(namespace),
        count(extras.reads_counted),
        *(milliseconds(extras.reads.get(each)) for each in _QUANTILES),
        word("ok", "kept") if kept else word("warn", "missed"),
    ]


def services(view: View) -> Iterator[Html]:
    found = view.report.services
    if not found:
        return section("Services", el("p", "None was asked yet.", class_="note"))
    return section("Services", table(_SERVICES, (_service(view, each) for each in found)))


def _service(view: View, service: ServiceHealth) -> list[Child]:
    up = word("ok", "answers") if service.up else word("bad", "does not answer")
    return [
        name(service.service),
        up,
        since(service.since_at, view.now),
        name(service.detail, "said") if service.detail else None,
    ]


def past(view: View) -> Iterator[Html]:
    """What has held at any time since the start, the newest first."""
    found = sorted(view.report.since_start, key=lambda each: -each.last_at)
    if not found:
        return section("Since the start", el("p", "Nothing was wrong.", class_="note"))
    now = {(each.cause, each.namespace, each.service) for each in view.report.reasons}
    more = len(found) - MAX_PAST
    return section(
        "Since the start",
        table(
            _PAST,
            (
                _past(view, each, (each.cause, each.namespace, each.service) in now)
                for each in found[:MAX_PAST]
            ),
        ),
        more_than_shown(f"And {more:,} more before these: see /healthz.", more),
    )


def _past(view: View, reason: PastReason, holds: bool) -> list[Child]:
    several = len(view.report.namespaces) > 1
    return [
        [reason.cause, aside("in ", name(reason.namespace)) if several and reason.namespace else None],
        name(reason.message, "said"),
        count(reason.count),
        moment(reason.first_at, view.now, zone=False),
        word("warn", "now") if holds else moment(reason.last_at, view.now, zone=False),
    ]

"""Events and how far they were published: look, turn on and off."""

from __future__ import annotations

from msgspec.structs import asdict

from somactl.report import EventsLsReport, EventsReport, EventView
from somactl.store.contract import KEEP_EVENTS, Event, Finding, Publishing, Store
from somactl.suggestion import run


async def status(store: Store) -> EventsReport:
    """How far events were published. Exit 4 where some were dropped unpublished."""
    report = await _report(store, await store.publishing())
    report.finish(4 if report.dropped else 0)
    return report


async def enable(store: Store, keep: int | None) -> EventsReport:
    """From now on events wait to be published, at most `keep` beyond their time; None: as many as before."""
    before = (await store.publishing()).keep
    wanted = keep if keep is not None else before if before is not None else KEEP_EVENTS
    return await _report(store, await store.set_publishing(wanted))


async def disable(store: Store) -> EventsReport:
    """Events no longer wait: age alone removes them."""
    return await _report(store, await store.set_publishing(None))


async def ls(store: Store, after: int, limit: int) -> EventsLsReport:
    """The events behind version `after`, at most `limit`."""
    page = await store.events(after, limit)
    report = EventsLsReport(
        store=store.name,
        namespace=store.namespace,
        head=page.head,
        after=page.after,
        events=[_view(event) for event in page.events],
        gone=None if page.gone is None else list(page.gone),
    )
    if page.gone is not None:
        first, last = page.gone
        report.warnings.append(f"the events of versions {first} to {last} are gone: retention removed them")
    return report


async def findings(store: Store) -> list[Finding]:
    """What `doctor` says about a namespace whose events are published; nothing about any other."""
    told = await store.publishing()
    if told.keep is None:
        return []
    detail = f"published up to version {told.published} of {told.version}; {told.backlog} wait"
    status = run("events status")
    if told.dropped:
        detail += f"; {told.dropped} were dropped unpublished"
        advice = "find out why they are not published, then turn publishing on again, with a larger --keep"
        return [Finding(store.name, "events", "warning", detail, advice, (status,))]
    if told.backlog > told.keep:
        detail += f", and more than {told.keep} are not kept beyond their time"
        advice = "publish them, or let the namespace keep more of them"
        return [Finding(store.name, "events", "warning", detail, advice, (status,))]
    return [Finding(store.name, "events", "ok", detail)]


async def _report(store: Store, told: Publishing) -> EventsReport:
    oldest = (await store.events(told.published, 1)).events if told.backlog else ()
    report = EventsReport(
        store=store.name,
        namespace=store.namespace,
        incarnation=told.incarnation,
        namespace_version=told.version,
        publishing=told.keep is not None,
        published=told.published,
        keep=told.keep,
        backlog=told.backlog,
        oldest_at=oldest[0].recorded_at if oldest else None,
        dropped=told.dropped,
    )
    if told.dropped:
        report.warnings.append(
            f"{told.dropped} events were dropped unpublished since publishing was turned on; "
            "`events enable` takes note of it"
        )
    return report


def _view(event: Event) -> EventView:
    worst = {} if event.verdict is None else asdict(event.verdict)
    return EventView(
        version=event.version,
        incarnation=event.incarnation,
        commit_id=event.commit_id,
        recorded_at=event.recorded_at,
        keys=dict(event.keys),
        dark=event.dark,
        **worst,
    )

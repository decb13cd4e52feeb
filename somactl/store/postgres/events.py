"""The events of a namespace, and how far they were published."""

from __future__ import annotations

from somactl.store import reading as rules, sql
from somactl.store.contract import KEEP_EVENTS, EventPage, Publishing
from somactl.store.events import event, page, refuse_unreached
from somactl.store.postgres.session import Session


async def read(session: Session, namespace: str, after: int, limit: int) -> EventPage:
    rows = await session.rows("events", namespace, after, limit)
    if not rows:
        raise rules.no_namespace(namespace)
    incarnation, head = rows[0]["head_incarnation"], rows[0]["head_version"]
    refuse_unreached(after, head, incarnation)
    found = [
        event(
            row["version"],
            row["commit_id"],
            row["recorded_at"],
            row["metadata"],
            incarnation=row["incarnation"],
            keys=sql.loads(row["contents"]),
        )
        for row in rows
        if row["version"] is not None
    ]
    return page(after, incarnation, head, found)


async def publishing(session: Session, namespace: str) -> Publishing:
    row = await session.row("publishing", namespace)
    if row is None:
        raise rules.no_namespace(namespace)
    return Publishing(**row)


async def mark(session: Session, namespace: str, version: int, incarnation: str | None) -> Publishing:
    mark = ("mark_published", namespace, version, incarnation, KEEP_EVENTS)
    async with session.transaction():
        while await session.row(*mark) is None:  # once, unless it is reached in between
            found = await publishing(session, namespace)
            refuse_unreached(version, found.version, found.incarnation, incarnation)
        found = await publishing(session, namespace)
        await session.execute("COMMIT")
    return found


async def set_keep(session: Session, namespace: str, keep: int | None) -> Publishing:
    async with session.transaction():
        await session.row("set_publishing", namespace, keep)
        found = await publishing(session, namespace)
        await session.execute("COMMIT")
    return found

"""The events of a namespace, and how far they were published. Every function runs on a worker's thread."""

from __future__ import annotations

import sqlite3

from somactl.store.contract import KEEP_EVENTS, EventPage, Publishing
from somactl.store.events import event, page, refuse_unreached
from somactl.store.sqlite import reading
from somactl.store.sqlite.database import transaction
from somactl.store.sqlite.schema import queries


def read(connection: sqlite3.Connection, namespace: str, after: int, limit: int) -> EventPage:
    with transaction(connection):
        here = reading.existing(connection, namespace)
        head = here.head
        refuse_unreached(after, head.version, head.incarnation)
        parameters = {"id": here.id, "after": after, "limit": limit}
        rows = connection.execute(queries()["events"], parameters).fetchall()
    return page(after, head.incarnation, head.version, [event(*row) for row in rows])


def publishing(connection: sqlite3.Connection, namespace: str) -> Publishing:
    with transaction(connection):
        return _publishing(connection, namespace)


def mark(connection: sqlite3.Connection, namespace: str, version: int, incarnation: str | None) -> Publishing:
    with transaction(connection, write=True):
        here = reading.existing(connection, namespace)
        refuse_unreached(version, here.head.version, here.head.incarnation, incarnation)
        parameters = {"id": here.id, "version": version, "keep": KEEP_EVENTS}
        connection.execute(queries()["mark_published"], parameters)
        return _publishing(connection, namespace)


def set_keep(connection: sqlite3.Connection, namespace: str, keep: int | None) -> Publishing:
    with transaction(connection, write=True):
        here = reading.existing(connection, namespace)
        connection.execute(queries()["set_publishing"], {"id": here.id, "keep": keep})
        return _publishing(connection, namespace)


def _publishing(connection: sqlite3.Connection, namespace: str) -> Publishing:
    here = reading.existing(connection, namespace)
    published, backlog = here.published or 0, 0
    if here.keep_events is not None:
        parameters = {"id": here.id, "published": published}
        (backlog,) = connection.execute(queries()["unpublished"], parameters).fetchone()
    head = here.head
    return Publishing(
        head.incarnation, head.version, published, here.keep_events, backlog, here.dropped_events
    )

"""The events of a namespace, and how far they were published."""

from __future__ import annotations

from collections.abc import Sequence

from somactl.store.contract import KEEP_EVENTS, Event, EventPage, Publishing
from somactl.store.events import event, page, refuse_unreached
from somactl.store.redis import layout
from somactl.store.redis.layout import NamespaceHead
from somactl.store.redis.pool import Argument, Script
from somactl.store.redis.reading import Reader

PUBLISH = Script("publish")
PUBLISHING_FIELDS = ("published", "keep_events", "dropped_events")
"""Of a head; the first is missing where publishing was never turned on, the second where it is off."""
_FIELDS = ("at", "incarnation", "detail")


async def read(reader: Reader, after: int, limit: int) -> EventPage:
    """See `Store.events`. The log says which commits come next, and their records tell the rest.

    The head is asked first: what it does not name yet may come, and nothing that it names is missed.
    """
    names = reader.names
    command = ("ZRANGEBYSCORE", names.log, f"({after}", "+inf", "WITHSCORES", "LIMIT", 0, limit)
    here, (listed,) = await reader.ask_primary("events", command)
    head = here.head
    refuse_unreached(after, head.version, head.incarnation)
    ids = [bytes(commit_id).decode() for commit_id in listed[::2]]
    versions = [int(float(score)) for score in listed[1::2]]
    if not ids:
        return page(after, head.incarnation, head.version, [])
    asked = [("HMGET", names.commit(commit_id), *_FIELDS) for commit_id in ids]
    replies = reader.link.values(await reader.link.ask(*asked))
    told = zip(versions, ids, replies, strict=True)
    found = [_event(*each) for each in told if each[2][0] is not None]  # the others were removed meanwhile
    return page(after, head.incarnation, head.version, found, looked=versions[-1])


def _event(version: int, commit_id: str, fields: Sequence[bytes]) -> Event:
    at, incarnation, detail = map(bytes, fields)
    return event(version, commit_id, float(at), detail, incarnation=incarnation.decode())


async def publishing(reader: Reader) -> Publishing:
    command = ("HMGET", reader.names.head, *PUBLISHING_FIELDS)
    here, (fields,) = await reader.ask_primary("what was published", command)
    published, keep, dropped = (None if field is None else int(field) for field in fields)
    backlog = 0
    if keep is not None:
        waiting = ("ZCOUNT", reader.names.log, f"({published}", "+inf")
        (backlog,) = reader.link.values(await reader.link.ask(waiting))
    head = here.head
    return Publishing(head.incarnation, head.version, published or 0, keep, backlog, dropped or 0)


async def mark(reader: Reader, version: int, incarnation: str | None) -> Publishing:
    head = (await _publish(reader, version, incarnation or "", KEEP_EVENTS)).head
    refuse_unreached(version, head.version, head.incarnation, incarnation)
    return await publishing(reader)


async def set_keep(reader: Reader, keep: int | None) -> Publishing:
    await _publish(reader, "", "", "" if keep is None else keep)
    return await publishing(reader)


async def _publish(reader: Reader, *arguments: Argument) -> NamespaceHead:
    """The head as `lua/publish.lua` found it, which says what the arguments are."""
    what, *facts = await reader.link.call(PUBLISH, [reader.names.head], [layout.LAYOUT, *arguments])
    if what == b"missing":
        raise await reader.absence()
    if what == b"newer":
        raise layout.newer_to_write(reader.names.namespace, facts[0])
    return await reader.existing(facts[0])

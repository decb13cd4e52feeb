"""What is listed of a namespace: pages of its keys, its counts, and what is left where its head was lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import msgspec

from somactl.core.portions import in_portions
from somactl.store.contract import NamespaceSummary, Stat
from somactl.store.reading import Listing
from somactl.store.redis import layout
from somactl.store.redis.layout import HEAD_FIELDS, NamespaceHead
from somactl.store.redis.pool import Script
from somactl.store.redis.reading import Reader

PAGE = Script("page")

_FETCH = 1000
"""Keys that one script looks at: some 2 ms in which the server does nothing else."""
_FEWEST = 16
_PAGE = 1000


async def pages(reader: Reader, listing: Listing, after: str | None) -> AsyncIterator[list[Stat]]:
    """See `Store.scan`. Where pages are cut by bytes, not much more is fetched than fits into one."""
    prefix = listing.prefix
    start = _from(prefix) if after is None or after < prefix else _behind(after)
    fetch = min(_FETCH, listing.page_keys)
    while True:
        stats, last = await _page(reader, listing, start, fetch)
        chosen = next(in_portions(stats, lambda stat: stat.size, listing.page_bytes, listing.page_keys), [])
        if chosen:
            yield chosen
        if len(chosen) < len(stats):
            start, fetch = _behind(chosen[-1].key), max(_FEWEST, 2 * len(chosen))
        elif last is None or not last.startswith(prefix):
            return
        else:
            start, fetch = _behind(last), min(_FETCH, 2 * fetch)


def _from(key: str) -> str:
    return f"[{key}" if key else "-"


def _behind(key: str) -> str:
    return f"({key}"


async def _page(reader: Reader, listing: Listing, start: str, fetch: int) -> tuple[list[Stat], str | None]:
    """The stats of those of the next `fetch` keys that match, all as of one moment; and the last of all
    these keys, None where no more come behind it.

    The script is told all keys that were seen there; where it finds another one, it says so.
    """
    names = reader.names
    index = names.deleted if listing.deleted else names.keys
    seen: dict[str, None] = {}
    while True:
        wanted = [key for key in seen if listing.matches(key)]
        others = [key for key in seen if not listing.matches(key)]
        what, fields, *told = await reader.link.call(
            PAGE,
            [names.head, index, *map(names.history, wanted)],
            [start, fetch, len(wanted), *wanted, *others],
        )
        here = await reader.existing(fields)
        if what == b"page":
            rows, count, last = told
            return _stats(here, rows), bytes(last).decode() if count == fetch else None
        seen |= dict.fromkeys(bytes(key).decode() for key in told[0])


def _stats(here: NamespaceHead, rows: Sequence[Sequence[bytes | None]]) -> list[Stat]:
    stats = []
    for name, newest, hidden in rows:
        key = bytes(name or b"").decode()
        if newest is None:
            raise layout.damaged(here.head.namespace, f"the history of key {key!r} is gone")
        covered = layout.line(hidden) if hidden else None
        stats.append(layout.stat(key, layout.line(newest), covered, here.head.retention))
    return stats


async def summary(reader: Reader) -> NamespaceSummary:
    """The head and its counts, which every commit keeps."""
    told = ("HMGET", reader.names.head, *HEAD_FIELDS, "keys", "tombstones", "bytes")
    (fields,) = reader.link.values(await reader.link.ask(told))
    here = await reader.existing(fields)
    keys, tombstones, stored = (int(count or 0) for count in fields[len(HEAD_FIELDS) :])
    return NamespaceSummary(here.head, keys, tombstones, stored)


class Remains(msgspec.Struct, frozen=True):
    """The newest version that any key speaks of, and the size of the live values."""

    version: int = 0
    stored_bytes: int = 0


async def remains(reader: Reader) -> Remains:
    """Look at every key that the indexes still hold; the head itself is not asked for."""
    names, version, stored = reader.names, 0, 0
    for index in (names.keys, names.deleted):
        start = "-"
        while True:
            (page,) = await reader.link.ask(("ZRANGEBYLEX", index, start, "+", "LIMIT", 0, _PAGE))
            keys = [bytes(key).decode() for key in reader.link.value(page)]
            if not keys:
                break
            start = f"({keys[-1]}"
            newest = (("ZRANGE", names.history(key), -1, -1) for key in keys)
            for rows in reader.link.values(await reader.link.ask(*newest)):
                for line in map(layout.line, rows):
                    version = max(version, line.version)
                    stored += line.about.size
    return Remains(version, stored)

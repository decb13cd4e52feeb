"""Pages of a namespace's keys, and the list of namespaces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from somactl.core.names import Pattern
from somactl.store.contract import NamespaceSummary, Stat
from somactl.store.redis import layout, revisions
from somactl.store.redis.layout import HEAD_FIELDS, NamespaceHead
from somactl.store.redis.reading import Reader
from somactl.store.redis.scripts import Script

PAGE = Script("page")

_FETCH = 1000
"""Keys that one script looks at: some 2 ms in which the server does nothing else."""
_FEWEST = 16


async def pages(
    reader: Reader,
    pattern: Pattern | None,
    after: str | None,
    *,
    deleted: bool,
    page_bytes: int,
    page_keys: int,
) -> AsyncIterator[list[Stat]]:
    """See `Store.scan`. Where pages are cut by bytes, not much more is fetched than fits into one."""
    prefix = pattern.prefix if pattern else ""
    index = reader.names.deleted if deleted else reader.names.keys
    start = _from(prefix) if after is None or after < prefix else _behind(after)
    fetch = min(_FETCH, max(page_keys, 1))
    while True:
        stats, last = await _page(reader, index, start, fetch, pattern)
        chosen = _cut(stats, page_bytes, page_keys)
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


def _cut(stats: Sequence[Stat], page_bytes: int, page_keys: int) -> list[Stat]:
    """As many of the first as one page takes, one at least."""
    size = 0
    for number, stat in enumerate(stats):
        size += stat.size
        if number and (size > page_bytes or number >= page_keys):
            return list(stats[:number])
    return list(stats)


async def _page(
    reader: Reader, index: str, start: str, fetch: int, pattern: Pattern | None
) -> tuple[list[Stat], str | None]:
    """The stats of those of the next `fetch` keys that match, all as of one moment; and the last of all
    these keys, None where no more come behind it.

    The script is told all keys that were seen there; where it finds another one, it says so.
    """
    names = reader.names
    seen: dict[str, None] = {}
    while True:
        wanted = [key for key in seen if pattern is None or pattern.matches(key)]
        others = [key for key in seen if pattern is not None and not pattern.matches(key)]
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
        covered = revisions.line(hidden) if hidden else None
        stats.append(revisions.stat(key, revisions.line(newest), covered, here.head.retention))
    return stats


async def summary(reader: Reader) -> NamespaceSummary:
    """The head and its counts, which every commit keeps."""
    told = ("HMGET", reader.names.head, *HEAD_FIELDS, "keys", "tombstones", "bytes")
    (fields,) = reader.link.values(await reader.link.ask(told))
    here = await reader.existing(fields)
    keys, tombstones, stored = (int(count or 0) for count in fields[len(HEAD_FIELDS) :])
    return NamespaceSummary(here.head, keys, tombstones, stored)

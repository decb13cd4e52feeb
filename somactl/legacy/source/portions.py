"""Changes of a source, as many at a time as its server is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from somactl.legacy.source.contract import Change


def portions(
    changes: Sequence[Change], most_bytes: int, most_keys: int | None = None
) -> Iterator[list[Change]]:
    """The changes in their order, cut where a key comes again and where they are too many or too large.

    A single one may be larger than `most_bytes`.
    """
    portion: list[Change] = []
    keys: set[str] = set()
    size = 0
    for change in changes:
        more = size_of(change)
        full = len(portion) == most_keys or size + more > most_bytes
        if portion and (full or change.key in keys):
            yield portion
            portion, keys, size = [], set(), 0
        portion.append(change)
        keys.add(change.key)
        size += more
    if portion:
        yield portion


def size_of(change: Change) -> int:
    """Bytes that are sent for it."""
    return len(change.before or b"") + len(change.after or b"")

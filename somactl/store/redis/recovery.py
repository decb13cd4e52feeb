"""What is left of a namespace whose head was lost: what a new head must not contradict."""

from __future__ import annotations

import msgspec

from somactl.store.redis import revisions
from somactl.store.redis.reading import Reader

_PAGE = 1000


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
                for line in map(revisions.line, rows):
                    version = max(version, line.version)
                    stored += line.about.size
    return Remains(version, stored)

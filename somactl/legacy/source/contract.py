"""What every source of legacy values promises. A source knows JSON text and keys, and nothing of matrices.

A source is opened read-only unless its values are to be replaced, and then refuses `swap` itself: where the
server can enforce that, it is asked to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Literal, Protocol

import msgspec

from somactl.core.names import Pattern

FETCH_BYTES = 16 << 20
"""About how many bytes of values `fetch` brings at once; one value may be larger."""
MAX_VALUE_BYTES = 384 << 20
"""The longest value that is fetched; `core.legacy_json` reads no longer text either."""


class Value(msgspec.Struct, frozen=True):
    """One value of the old service.

    key     as the source has it, bytes that are no UTF-8 as surrogates (`surrogateescape`)
    state   text: `data` holds it; other: something that is no text at all, such as a Redis hash;
            unreadable: larger than MAX_VALUE_BYTES, damaged, or a line that is no value at all; gone: it
            was listed, and is there no more
    data    the bytes of a Redis string or a file, or the text of a JSONB value, in UTF-8
    detail  for other and unreadable, what it is: `a Redis hash`, `493 MB of JSON`
    expires_at  seconds since 1970 when the source removes it by itself; None: never
    attributes  what else a source must know to put it back as it was, in words of its own: a file's mode
    """

    key: str
    state: Literal["text", "other", "unreadable", "gone"]
    data: bytes = b""
    detail: str = ""
    expires_at: float | None = None
    attributes: str = ""


class Change(msgspec.Struct, frozen=True):
    """Replace the value of `key`, if it still is `before`, by `after`. None: not there.

    What a source spells in a way of its own, as JSONB does, is compared in that spelling.

    expires_at  when the source is to remove what is put back where nothing was; None: never. A value that is
                replaced keeps what it has
    attributes  those of the `Value` that is put back where nothing was
    """

    key: str
    before: bytes | None
    after: bytes | None
    expires_at: float | None = None
    attributes: str = ""

    @property
    def size(self) -> int:
        """Bytes that are sent for it."""
        return len(self.before or b"") + len(self.after or b"")


class Source(Protocol):
    """Values by their keys. Safe for concurrent use by the tasks of one event loop.

    Its errors are those of the stores: StoreUnavailable, ConfigurationError; NotFound where there is no
    such table.
    """

    name: str
    """For reports, which name no host: `postgres table kv_store`, `redis`, `json files`, `ndjson`."""
    identity: str
    """Which source this is, for telling one migration from another: a URL without user and password."""
    replaceable: bool
    """Whether `swap` can be asked of this kind of source at all; values that came by a pipe cannot be."""

    def names(self, match: Pattern | None) -> AsyncIterator[list[str]]:
        """Pages of the keys that match, in any order; a key may come more than once. No value is read.

        Keys that are there during the whole listing come in any case.
        """
        ...

    async def fetch(self, keys: Sequence[str]) -> list[Value]:
        """Values of the first of `keys`, in their order: one at least, and no more than about FETCH_BYTES.

        The caller asks again for those that did not come. A value that cannot be had says so itself, and
        hides no other.
        """
        ...

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        """Carry out each change by itself, atomically; whether the value now is `after`.

        True also where it was so before, so that a repetition after a lost reply tells the same. False where
        the value is another, or the source cannot hold `after`. Raises ReadOnlyStore on a source that was
        opened read-only, OutcomeUnknown where no reply came: then repeat it.
        """
        ...

    async def close(self) -> None: ...

"""The frames of PostgreSQL's protocol, checked before asyncpg sees them.

asyncpg is compiled, and believes a server's lengths: one that is too small ends the process with a fault of
memory, one that is large is waited for and buffered. Here each message has a known type, a length that can
be, and a bound by its type; where one has not, the connection is cut. (Message formats: PostgreSQL 17 manual,
chapter 53.) asyncpg offers no hook for this, so the name of its class is given another meaning, for the
connections that are made here alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final

import asyncpg
from asyncpg import protocol

MAX_ROW_BYTES: Final = 512 << 20
"""Of a row: an envelope, or a value of the old service, and what stands beside it."""
MAX_MESSAGE_BYTES: Final = 1 << 20
"""Of every other message: an error and its text, a description of columns, a setting."""
_TYPES: Final = frozenset(b"123ACDEIKNRSTZnstv")
_ROW: Final = ord("D")
_HEADER: Final = 5


class FrameReader:
    """Follows the frames of a stream through pieces of any size."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0

    def defect(self, data: bytes) -> str | None:
        """What is wrong with the stream, in the next piece of it; None while nothing is."""
        at, size = 0, len(data)
        while at < size:
            if self._left:
                step = min(self._left, size - at)
                self._left -= step
                at += step
                continue
            taken = data[at : at + _HEADER - len(self._head)]
            self._head += taken
            at += len(taken)
            if len(self._head) < _HEADER:
                return None
            kind, length = self._head[0], int.from_bytes(self._head[1:], "big")
            self._head = b""
            if kind not in _TYPES:
                return f"a message of the unknown type {chr(kind)!r}"
            if not 4 <= length <= (MAX_ROW_BYTES if kind == _ROW else MAX_MESSAGE_BYTES):
                return f"a message of type {chr(kind)!r} and {length} bytes"
            self._left = length - 4
        return None


class FramedProtocol(protocol.Protocol):  # type: ignore[misc]  # asyncpg has no types
    """asyncpg's protocol, which reads whole frames or none."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._frames = FrameReader()
        self._transport: Any = None
        self._cut = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._cut:
            return
        defect = self._frames.defect(data)
        if defect is None:
            try:
                super().data_received(data)
                return
            except Exception as exc:  # asyncio would print it, and leave the caller waiting
                defect = f"a message that cannot be read ({type(exc).__name__}: {exc})"[:200]
        self._cut = True
        self._transport.abort()
        super().connection_lost(ConnectionResetError(f"the server sent {defect}"))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._cut:
            super().connection_lost(exc)


_ours: ContextVar[bool] = ContextVar("ours", default=False)
"""Whether the connection that is being made is one of `connect`."""
_unframed = protocol.Protocol


def _protocol(*arguments: Any) -> Any:
    """What asyncpg makes for a connection; other users of it in this process get its own."""
    return (FramedProtocol if _ours.get() else _unframed)(*arguments)


async def connect(arguments: Mapping[str, Any], timeout: float) -> Any:
    """asyncpg's connection, made of `arguments`, read so; nothing named is kept on the server unasked."""
    protocol.Protocol = _protocol
    before = _ours.set(True)
    try:
        return await asyncpg.connect(**arguments, timeout=timeout, statement_cache_size=0)
    finally:
        _ours.reset(before)

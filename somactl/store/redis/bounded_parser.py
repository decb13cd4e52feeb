"""redis-py's parser of replies, which reads no more than was asked for.

A server may announce what it likes and send without end; hiredis would keep it all until it is whole. So each
exchange has an allowance of bytes, by the commands in it. What cannot be parsed at all ends as redis-py's
InvalidResponse, whatever the parser or the constructor of an error stumbled over.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError, InvalidResponse, RedisError

from somactl.store.redis.pool import Command

CONNECT_BYTES: Final = 1 << 20
"""Of replies while a connection is made: to AUTH, HELLO, CLIENT SETINFO and SELECT."""
TALK_BYTES: Final = 64 << 20
"""Of the replies to one exchange whose commands ask for no payloads: statistics, names, versions."""
PAYLOAD_BYTES: Final = 512 << 20
"""Added for each command that asks for payloads: the longest string a Redis has. Who asks for many at once
has asked for their sizes before."""
EXCHANGE_BYTES: Final = 1 << 30
"""Of the replies to one exchange, whatever it asks for."""
MAX_ELEMENTS: Final = 16 << 20
"""Of the list that a reply is; each takes 8 bytes when it is announced, before one of them has come."""
_PAYLOADS = frozenset({"GET", "MGET", "GETRANGE", "EVAL", "EVALSHA", "HGETALL", "HMGET", "EXEC"})
_announced = re.compile(rb"([$*])([0-9]{1,20})\r\n").match


def allowance(commands: Sequence[Command]) -> int:
    """How many bytes the replies to `commands` may take."""
    bearing = sum(str(command[0]).upper() in _PAYLOADS for command in commands)
    return min(EXCHANGE_BYTES, TALK_BYTES + bearing * PAYLOAD_BYTES)


class TooMuch(InvalidResponse):
    """More than was asked for."""


class BoundedParser(DefaultParser):  # type: ignore[misc, valid-type]  # which one it is depends on hiredis
    """`allow` before each exchange; a connection is made under CONNECT_BYTES."""

    def __init__(self, socket_read_size: int) -> None:
        super().__init__(socket_read_size=socket_read_size)
        self._left = CONNECT_BYTES
        self._most = CONNECT_BYTES

    def on_connect(self, connection: Any) -> None:
        super().on_connect(connection)
        self.allow(CONNECT_BYTES)

    def allow(self, most: int) -> None:
        """Begin to count: no more than `most` bytes are read until it is called again."""
        self._left = self._most = most

    async def read_from_socket(self) -> bool:
        data = await self._stream.read(self._read_size)
        if not data:
            raise ConnectionError("Connection closed by server.")
        announced = _announced(data) if self._left == self._most else None
        if announced and int(announced[2]) > (self._most if announced[1] == b"$" else MAX_ELEMENTS):
            raise TooMuch(f"it announces {announced[0].decode().strip()}")
        self._left -= len(data)
        if self._left < 0:
            raise TooMuch(f"it sends more than {self._most} bytes")
        self._reader.feed(data)
        return True

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except (RedisError, OSError):
            raise
        # An error's constructor that finds no port in MOVED, a text that is no UTF-8, a list too long.
        except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError, MemoryError) as exc:
            raise InvalidResponse(f"{type(exc).__name__} while a reply was read") from exc

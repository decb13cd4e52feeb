"""Connections to one server, and the commands and scripts that go over them.

Many commands take one round trip, and no reply ever reaches the wrong caller. The scripts are the Lua files
under `lua/`, called by their digest.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, TypeAlias

from hiredis import pack_command
from redis.exceptions import AuthenticationError, ResponseError

from somactl.errors import SomactlError
from somactl.package_data import data_file
from somactl.store.calls import Home, client_name, hear
from somactl.store.redis.connection import BoundedParser, allowance
from somactl.store.redis.failures import translated
from somactl.store.redis.layout import seconds

Argument: TypeAlias = "str | bytes | memoryview | int"
Command: TypeAlias = "Sequence[Argument]"
Reply: TypeAlias = Any
"""What Redis answers: bytes, int, None, a list of these, or a ResponseError for a command it refused."""
Converse: TypeAlias = "Callable[[Sequence[Command], float], Awaitable[list[Reply]]]"
"""Sends more over one and the same connection; its replies may take so many seconds longer than usual."""
Behind: TypeAlias = "Callable[[Converse, Sequence[Reply]], Awaitable[None]]"
"""Says what is to be said behind an exchange, whose replies it gets."""

LANES = 32
"""Exchanges with one server at a time; more wait for a free connection."""
_LARGE = 64 << 10
"""From this size on an argument is sent from where it lies, not copied into its command."""
_BUFFERS = (bytes, memoryview)
_PIECE = 1 << 20
"""Bytes handed to the socket at once; more would first be joined into one piece, and copied."""


class Pool:
    """Connections to `node` (host, port), made by `make` when needed and kept until `close`.

    A connection serves one exchange at a time. If that is cancelled, fails, or is late, the connection is
    closed: its late replies die with it. An exchange is late after `timeout` seconds, a new connection after
    `connect_timeout`; the connections themselves need no timeouts, which cost redis-py a task each.
    `anonymous` ones give no password.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        node: tuple[str, int],
        place: str,
        *,
        timeout: float | None = None,
        connect_timeout: float | None = None,
        anonymous: bool = False,
        timed: bool = False,
    ) -> None:
        self.node = node
        self.place = place
        self.connects = 0
        """How often a connection was made: behind a new one there may be another server."""
        self._make = make
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._anonymous = anonymous
        self._timed = timed
        self._idle: list[Any] = []
        self._busy: set[Any] = set()
        self._lanes = asyncio.Semaphore(LANES)
        self._closed = False
        self._home = Home(self._leave)

    def enter(self) -> None:
        """See `Home.enter`."""
        self._home.enter()

    async def exchange(
        self,
        commands: Sequence[Command],
        *,
        asking: bool = False,
        commit_id: str | None = None,
        behind: Behind | None = None,
    ) -> list[Reply]:
        """Send all commands at once; their replies in order, errors among them.

        `asking` prefixes each with ASKING. `behind` may go on over the same connection. Raises
        StoreUnavailable where nothing was sent; after that, with a `commit_id`, OutcomeUnknown; and
        AccessDenied, TlsFailure, ConfigurationError.
        """
        self.enter()
        async with self._lanes:
            connection = await self._connected()
            try:
                with translated(self.place, commit_id):
                    converse = self._conversation(connection, asking=asking)
                    replies = await converse(commands, 0.0)
                    if behind is not None:
                        await behind(converse, replies)
            except BaseException:
                await self._drop(connection)
                raise
            if any(map(_ends_the_connection, replies)):
                await self._drop(connection)
            else:
                await self._release(connection)
        return replies

    def _conversation(self, connection: Any, *, asking: bool = False) -> Converse:
        """Exchanges over `connection` and no other."""

        async def converse(commands: Sequence[Command], longer: float = 0.0) -> list[Reply]:
            if not connection.is_connected:  # redis-py would make a new one, perhaps to another server
                raise ConnectionResetError("it was closed")
            seconds = None if self._timeout is None else self._timeout + longer
            async with asyncio.timeout(seconds):
                replies = await _converse(connection, _prefixed(commands) if asking else commands)
            return replies[1::2] if asking else replies

        return converse

    @asynccontextmanager
    async def pinned(self) -> AsyncIterator[Callable[[Sequence[Command]], Awaitable[list[Reply]]]]:
        """`exchange`, always over one and the same connection: what WATCH needs.

        It is closed where the block ends with an exception. Otherwise nothing may be watched any more.
        """
        self.enter()
        async with self._lanes:
            connection = await self._connected()

            converse = self._conversation(connection)

            async def exchange(commands: Sequence[Command]) -> list[Reply]:
                with translated(self.place):
                    return await converse(commands, 0.0)

            try:
                yield exchange
            except BaseException:
                await self._drop(connection)
                raise
            await self._release(connection)

    async def reach(self) -> None:
        """Have a live connection ready; raises what `exchange` raises before it sends anything."""
        self.enter()
        async with self._lanes:
            await self._release(await self._connected())

    async def close(self) -> None:
        """Close the idle connections; one in use is closed when its exchange ends."""
        self.enter()
        self._closed = True
        while self._idle:
            await self._idle.pop().disconnect()
        await asyncio.sleep(0)  # for those that were cut off just before: a loop must not end under them

    async def _connected(self) -> Any:
        if self._closed:
            raise SomactlError(f"the store of {self.place} is used after it was closed")
        while self._idle:
            connection = self._idle.pop()
            self._busy.add(connection)
            try:
                if connection.is_connected and not await _stale(connection):
                    return connection
            except BaseException:  # the caller was cancelled
                await self._drop(connection)
                raise
            await self._drop(connection)
        connection = self._make()
        self._busy.add(connection)
        try:
            with translated(self.place, connecting=True):
                async with asyncio.timeout(self._connect_timeout):
                    await connection.connect()
                    if self._anonymous:
                        await _knock(connection)
                    await _introduce(connection, timed=self._timed)
        except BaseException:
            await self._drop(connection)
            raise
        self.connects += 1
        return connection

    async def _release(self, connection: Any) -> None:
        if self._closed or not connection.is_connected:
            await self._drop(connection)
        elif connection in self._busy:
            self._busy.remove(connection)
            self._idle.append(connection)

    async def _drop(self, connection: Any) -> None:
        if connection in self._busy:  # else it was left to the parent process
            self._busy.remove(connection)
            await connection.disconnect(nowait=True)

    def _leave(self) -> object:
        left = [*self._idle, *self._busy]
        self._idle, self._busy = [], set()
        self._lanes = asyncio.Semaphore(LANES)
        self.connects += 1  # behind the next one there may be another server
        return left


async def _stale(connection: Any) -> bool:
    """Whether something lies unread, or the other side has hung up."""
    if not hasattr(connection, "can_read"):  # before redis-py 8; what it had instead waits, and reads
        return bool(connection._reader.at_eof())
    try:
        return bool(await connection.can_read())
    except Exception:  # whatever is wrong with it, it is not used again
        return True


async def _knock(connection: Any) -> None:
    """Raise AuthenticationError where the server demands a password.

    It would hang up on anything long that comes without one, often before its reply to that can be read: a
    lost connection to all appearance, and for a commit an unknown outcome. To a short command it replies.
    """
    (reply,) = await _converse(connection, [("PING",)])
    if isinstance(reply, AuthenticationError):
        raise reply


async def _converse(connection: Any, commands: Sequence[Command]) -> list[Reply]:
    if isinstance(connection._parser, BoundedParser):  # fakeredis has one of its own
        connection._parser.allow(allowance(commands))
    for piece in pieces(commands):
        await connection.send_packed_command(piece)
    replies: list[Reply] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response())
        except ResponseError as exc:
            replies.append(exc)
    return replies


def _ends_the_connection(reply: Reply) -> bool:
    """Whether the server hangs up behind this reply, perhaps only in a moment."""
    return isinstance(reply, Exception) and "Protocol error" in str(reply)


def _prefixed(commands: Sequence[Command]) -> list[Command]:
    return [each for command in commands for each in (("ASKING",), command)]


def pieces(commands: Sequence[Command]) -> Iterator[list[bytes | memoryview]]:
    """The commands as they go over the wire, cut into lists of about `_PIECE` bytes.

    Large arguments are not copied: they stand in the lists as views of themselves.
    """
    piece: list[bytes | memoryview] = []
    size = 0
    for chunk in _chunks(commands):
        for start in range(0, len(chunk), _PIECE):
            part = chunk if len(chunk) <= _PIECE else memoryview(chunk)[start : start + _PIECE]
            if size + len(part) > _PIECE and piece:
                yield piece
                piece, size = [], 0
            piece.append(part)
            size += len(part)
    if piece:
        yield piece


def _chunks(commands: Sequence[Command]) -> Iterator[bytes | memoryview]:
    for command in commands:
        # By type, not isinstance: a commit has hundreds of thousands of arguments.
        large = [i for i, part in enumerate(command) if type(part) in _BUFFERS and len(part) >= _LARGE]  # type: ignore[arg-type]
        if not large:
            yield pack_command(tuple(command))  # type: ignore[arg-type]
            continue
        before, start = b"*%d\r\n" % len(command), 0
        for place in large:
            data: Any = command[place]
            yield before + _packed(command[start:place]) + b"$%d\r\n" % len(data)
            yield data
            before, start = b"\r\n", place + 1
        yield before + _packed(command[start:])


def _packed(parts: Command) -> bytes:
    """Arguments in the middle of a command."""
    packed: bytes = pack_command(tuple(parts))  # type: ignore[arg-type]
    return packed[packed.index(b"\n") + 1 :]


async def _introduce(connection: Any, *, timed: bool) -> None:
    """Give the connection a name for CLIENT LIST, and ask for the time; a user who may do neither goes
    without."""
    await connection.send_command("CLIENT", "SETNAME", client_name.get().replace(" ", "-"))
    if timed:
        await connection.send_command("TIME")
    with contextlib.suppress(ResponseError):
        await connection.read_response()
    if not timed:
        return
    with contextlib.suppress(ResponseError):
        hear(seconds(await connection.read_response()))


class Call:
    """A script with what it is called with: one more kind of command."""

    def __init__(self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument] = ()) -> None:
        self.script = script
        self._rest = (len(keys), *keys, *arguments)

    @property
    def by_digest(self) -> Command:
        return ("EVALSHA", self.script.digest, *self._rest)

    @property
    def by_source(self) -> Command:
        return ("EVAL", self.script.source, *self._rest)


class Script:
    """The file `lua/NAME.lua`; read when first called.

    Called by digest, and with its source only where the server does not know it: after a restart, a
    failover or SCRIPT FLUSH. A call refused with NOSCRIPT has done nothing, so calling again is safe.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @cached_property
    def source(self) -> bytes:
        return data_file("lua", f"{self.name}.lua").read_bytes()

    @cached_property
    def digest(self) -> str:
        """SHA-1, because that is the name Redis gives a script; nothing is trusted to it."""
        return hashlib.sha1(self.source, usedforsecurity=False).hexdigest()

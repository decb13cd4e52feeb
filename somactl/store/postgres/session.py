"""One connection, and what is asked over it: the only place that knows how asyncpg prepares statements.

asyncpg takes two round trips for a statement that it has not prepared, one to learn its types and one to run
it, and forgets what it learnt unless the statement has a name. Named statements are no way behind PgBouncer,
which hands a connection of the server from client to client. So each statement is learnt once for each
connection, and run in one round trip from then on: by its name where no pooler stands between us and the
server, and otherwise by sending its text again along with the arguments (measured: 160 us a call instead of
300 us).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from typing import TypeAlias

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from somactl.errors import SomactlError
from somactl.store.postgres import schema
from somactl.store.postgres.schema import SchemaRow

Row: TypeAlias = "asyncpg.Record"

_SLOWEST_BYTES = 4 << 20
"""Bytes per second: a slower transfer is given up."""
BROKEN = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
"""What a connection that is no longer any good may raise; a timeout is an OSError."""


def seconds_for(size: int) -> float:
    """How much longer an answer may take that `size` bytes go before, or come with."""
    return size / _SLOWEST_BYTES


def milliseconds(seconds: float) -> int:
    """As PostgreSQL counts them; never 0, which would mean no limit."""
    return min(max(1, int(seconds * 1000)), (1 << 31) - 1)


class Session:
    """One connection while it is leased. What it sends is text of `queries.sql`, each call one round trip.

    `extra` is how many seconds an answer may take beyond the store's timeout.
    """

    def __init__(
        self,
        connection: asyncpg.Connection[Row],
        place: str,
        timeout: float,
        found: SchemaRow | None,
        named: bool,
    ) -> None:
        self.connection = connection
        self.place = place
        self.timeout = timeout
        self.schema = found
        self.named = named
        self.born = self.used = time.monotonic()
        self._statements: dict[str, PreparedStatement[Row]] = {}

    async def rows(self, name: str, *arguments: object, extra: float = 0.0) -> list[Row]:
        """All rows of the statement `name`."""
        statement = self._statements.get(name) or await self._learn(name)
        rows: list[Row] = await statement.fetch(*arguments, timeout=self.timeout + extra)
        return rows

    async def row(self, name: str, *arguments: object, extra: float = 0.0) -> Row | None:
        """The first row, or None."""
        rows = await self.rows(name, *arguments, extra=extra)
        return rows[0] if rows else None

    async def each(self, name: str, arguments: Iterable[tuple[object, ...]], *, extra: float) -> list[Row]:
        """The rows that the statement returns for each of `arguments`, in their order."""
        statement = self._statements.get(name) or await self._learn(name)
        rows: list[Row] = await statement.fetchmany(arguments, timeout=self.timeout + extra)
        return rows

    async def execute(self, sql: str, *, extra: float = 0.0) -> str:
        """Run statements without parameters; returns the last one's command tag."""
        tag: str = await self.connection.execute(sql, timeout=self.timeout + extra)
        return tag

    def require_open(self) -> None:
        """Raises where the connection is known to be lost: nothing was sent."""
        if self.connection.is_closed():
            raise ConnectionResetError("it is closed")

    async def learn(self, name: str) -> None:
        """Make sure that the next call of that statement is one round trip."""
        if name not in self._statements:
            await self._learn(name)

    async def _learn(self, name: str) -> PreparedStatement[Row]:
        """The types of a statement's parameters and columns, asked of the server once."""
        sql = schema.queries()[name]
        statement = await self.connection.prepare(
            sql, name=f"somactl_{name}" if self.named else "", timeout=self.timeout
        )
        self._statements[name] = statement
        return statement

    async def is_current(self, timeout: float) -> bool:
        """Whether the server answers, and the database was not migrated since we looked."""
        newest = await self.connection.fetchrow(schema.queries()["newest_schema"], timeout=timeout)
        return newest is not None and self.schema == tuple(newest)

    @property
    def lock_patience(self) -> float:
        """Seconds to wait for a lock: fewer than for an answer, so that the server says what it was. Who
        waits for a row behind others waits twice, first for his turn and then for the row."""
        return self.timeout / 3

    @contextlib.asynccontextmanager
    async def transaction(
        self, *, snapshot: bool = False, extra: float = 0.0, lock: float | None = None
    ) -> AsyncIterator[None]:
        """All that is done inside, or nothing: the caller commits, and what is not committed when the block
        ends is undone. `snapshot`: it only reads, all as of one moment.

        No statement may take longer than the store's timeout and `extra` seconds, nor wait longer than
        `lock` for a lock. The server watches the clock too: a client that is cut off must not keep it open.
        """
        patience = milliseconds(self.timeout + extra)
        waiting = milliseconds(self.lock_patience if lock is None else lock)
        await self.execute(
            f"BEGIN ISOLATION LEVEL {'REPEATABLE READ READ ONLY' if snapshot else 'READ COMMITTED'}; "
            f"SET LOCAL statement_timeout = {patience}; SET LOCAL lock_timeout = {waiting}; "
            f"SET LOCAL idle_in_transaction_session_timeout = {patience}"
        )
        try:
            yield
        except (SomactlError, asyncpg.PostgresError):
            await self._undo()
            raise
        await self._undo()

    async def _undo(self) -> None:
        """End the transaction, if there is one. Where that fails the connection is closed, which ends it."""
        if self.connection.is_closed() or not self.connection.is_in_transaction():
            return
        try:
            await self.execute("ROLLBACK")
        except BROKEN:
            self.connection.terminate()

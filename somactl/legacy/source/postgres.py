"""A table of the old service, `key text primary key, value jsonb`, in PostgreSQL.

Everything that reads does so in a transaction that the server itself holds to be read-only, and each is
short, so that PgBouncer may stand between and no vacuum waits for us.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

from somactl.core.names import Pattern
from somactl.core.portions import in_portions
from somactl.errors import OutcomeUnknown, ReadOnlyStore, SomactlError
from somactl.legacy.source import postgres_sql as sql
from somactl.legacy.source.contract import FETCH_BYTES, MAX_VALUE_BYTES, Change, Value
from somactl.legacy.source.postgres_table import DEFAULT_TABLE, Table, find_table, translate
from somactl.store.calls import Home, reads_replies
from somactl.store.postgres import connections, failures, framing
from somactl.store.postgres.session import BROKEN, Row, Session, seconds_for

PAGE_KEYS = 2000
FETCH_KEYS = 1000
"""Values brought at once at most, however small."""
SWAP_BYTES = 64 << 20
"""Bytes sent with one statement of changes, unless a single change is larger."""
CONNECTIONS = 4
_UNREADABLE = ("22", "54", "XX", "53200", "53400")
"""SQLSTATEs of what is wrong with one value alone: damaged, not to be put into words, or too large for it."""
_REFUSED = ("22", "23", "54")
"""SQLSTATEs of what is wrong with one change alone: no JSON of PostgreSQL's, or against a constraint."""


@reads_replies(__name__, "")
class PostgresSource:
    """The table that `?table=` in `url` names, `kv_store` by default; see `source.contract.Source`.

    Constructing it touches nothing; raises ConfigurationError for a URL that is not understood. `timeout` is
    how long, in seconds, the server may take to answer, beyond what a value's size excuses.
    """

    replaceable = True

    def __init__(
        self, url: str, *, read_only: bool = True, timeout: float = 30.0, connect_timeout: float = 5.0
    ) -> None:
        self._target = connections.parse(url, "source")
        self.place = self._target.public
        self._table_name = self._target.table or DEFAULT_TABLE
        self.name = f"postgres table {self._table_name}"
        self.identity = f"{self._target.identity}?table={self._table_name}"
        self._read_only = read_only
        self._timeout = timeout
        self._connect_timeout = self._target.connect_timeout or connect_timeout
        self._lanes = asyncio.Semaphore(min(CONNECTIONS, self._target.pool_size))
        self._idle: list[Session] = []
        self._leased: set[Session] = set()
        self._table: Table | None = None
        self._closed = False
        self._home = Home(self._leave)

    async def names(self, match: Pattern | None) -> AsyncIterator[list[str]]:
        table = await self._found()
        # Only in byte order do the keys of one prefix stand together.
        prefix = match.prefix if match is not None and table.byte_order else ""
        if not _storable(prefix):
            return
        statement, last = sql.page(table.name, first=True), prefix
        while True:
            async with self._session() as session, session.transaction(snapshot=True):
                rows = await self._rows(session, statement, last, PAGE_KEYS)
            keys: list[str] = [row["key"] for row in rows]
            chosen = [key for key in keys if match is None or match.matches(key)]
            if chosen:
                yield chosen
            if len(keys) < PAGE_KEYS or not keys[-1].startswith(prefix):
                return
            statement, last = sql.page(table.name, first=False), keys[-1]

    async def fetch(self, keys: Sequence[str]) -> list[Value]:
        chosen = list(keys[:FETCH_KEYS])
        try:
            return await self._walk(chosen)
        except SomactlError as exc:
            if not failures.sqlstate(exc).startswith(_UNREADABLE):
                raise
        # Which of them it is, only a question about one alone tells.
        try:
            return await self._walk(chosen[:1])
        except SomactlError as exc:
            if not failures.sqlstate(exc).startswith(_UNREADABLE):
                raise
            return [Value(chosen[0], "unreadable", detail=_said(exc))]

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        if self._read_only:
            raise ReadOnlyStore(f"a change was asked of the {self.name}, which is open for reading only")
        table = await self._found()
        results: list[bool] = []
        for batch in in_portions(
            changes, lambda change: change.size, SWAP_BYTES, name=lambda change: change.key
        ):
            results += await self._swap_or_each(table, batch)
        return results

    async def close(self) -> None:
        self._closed = True
        while self._idle:
            connection = self._idle.pop().connection
            try:
                await connection.close(timeout=1.0)
            except BROKEN:
                connection.terminate()
        await asyncio.sleep(0)  # the loop has to see the sockets of terminated connections closed

    async def _found(self) -> Table:
        """The table, looked at once; raises what `find_table` raises."""
        if self._table is None:
            async with self._session() as session, session.transaction(snapshot=True):
                self._table = await find_table(
                    session, self._table_name, self._target.public, timeout=self._timeout
                )
        return self._table

    async def _walk(self, keys: list[str]) -> list[Value]:
        """The first values that together have at most FETCH_BYTES; the first in any case."""
        table = await self._found()
        asked = [key if _storable(key) else None for key in keys]
        extra = seconds_for(MAX_VALUE_BYTES)
        async with self._session() as session, session.transaction(snapshot=True, extra=extra):
            await session.execute(sql.WALK_SETTINGS)
            rows = await self._rows(
                session, sql.walk(table.name), asked, FETCH_BYTES, MAX_VALUE_BYTES, extra=extra
            )
        values = [_value(key, row) for key, row in zip(keys, rows, strict=False)]
        # The last may be the one that would have passed the limit, and was not sent.
        return [value for value in values if value is not None]

    async def _swap_or_each(self, table: Table, changes: list[Change]) -> list[bool]:
        """`_swap`, where one change that the server cannot make does not take the others with it."""
        try:
            return await self._swap(table, changes)
        except SomactlError as exc:
            if not failures.sqlstate(exc).startswith(_REFUSED):
                raise
        if len(changes) == 1:
            return [False]
        return [made for change in changes for made in await self._swap_or_each(table, [change])]

    async def _swap(self, table: Table, changes: list[Change]) -> list[bool]:
        """Make the changes of one batch, in which no key stands twice, in one transaction."""
        rows = [_row(change) for change in changes]
        extra = seconds_for(3 * sum(change.size for change in changes))
        committing = False
        try:
            async with self._session() as session, session.transaction(extra=extra):
                statement = sql.swap(table.name, table.type)
                made = await self._rows(session, statement, *_columns(rows), extra=extra)
                stands = {row["key"] for row in made}
                others = [row for row in rows if row[0] not in stands]
                if others:
                    keys, _, after = _columns(others)
                    statement = sql.standing(table.name, table.type)
                    found = await self._rows(session, statement, keys, after, extra=extra)
                    stands.update(row["key"] for row in found)
                committing = True
                await session.execute("COMMIT", extra=extra)
        except SomactlError as exc:
            if not committing or failures.is_answer(exc.__cause__ or exc):
                raise
            raise OutcomeUnknown(
                f"{self._target.public} did not confirm the changes of {len(changes)} values: {exc.message}",
                commit_id="",
                hint="run it again: what was done is recognised",
            ) from exc
        return [key in stands for key, _, _ in rows]

    async def _rows(
        self, session: Session, statement: str, *arguments: object, extra: float = 0.0
    ) -> list[Row]:
        rows: list[Row] = await session.connection.fetch(statement, *arguments, timeout=self._timeout + extra)
        return rows

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Session]:
        """A connection, for one transaction. What asyncpg raises inside is raised as somactl's own error."""
        self._home.enter()
        async with self._lanes:
            session = self._rested() or await self._connect()
            self._leased.add(session)
            ended = False
            try:
                yield session
                ended = True
            except BROKEN as exc:
                ended = failures.is_answer(exc)
                error = translate(exc, self._target.public, self._table_name)
                if error is None:
                    raise
                raise error from exc
            finally:
                # A connection whose call did not end is closed, so that no other call gets a late answer.
                # One that the server has closed does not even know whether it is in a transaction.
                connection = session.connection
                ours = session in self._leased  # else it was left to the parent process
                self._leased.discard(session)
                usable = ended and not self._closed and not connection.is_closed()
                if usable and ours and not connection.is_in_transaction():
                    self._idle.append(session)
                elif ours:
                    connection.terminate()

    def _leave(self) -> object:
        left = [*self._idle, *self._leased]
        self._idle, self._leased = [], set()
        self._lanes = asyncio.Semaphore(min(CONNECTIONS, self._target.pool_size))
        return left

    def _rested(self) -> Session | None:
        while self._idle:
            session = self._idle.pop()
            if not session.connection.is_closed():
                return session
        return None

    async def _connect(self) -> Session:
        if self._closed:
            raise SomactlError(f"the {self.name} is used after it was closed")
        place = self._target.public
        for parameter, path in self._target.files.items():
            try:
                with open(path, "rb"):
                    pass
            except OSError as exc:
                raise failures.unreadable(parameter, exc, place) from exc
        try:
            # Nothing is kept on the server between transactions: PgBouncer hands its connections around.
            connection = await framing.connect(self._target.arguments, self._connect_timeout)
        except Exception as exc:
            error = failures.translate_connect(exc, place)
            if error is None:
                raise
            raise error from exc
        return Session(connection, place, self._timeout, None, False)


def _value(key: str, row: Row) -> Value | None:
    """What a row of `sql.walk` says of a key; None where the value was not sent this time."""
    if not row["found"]:
        return Value(key, "gone")
    if row["size"] is None:
        return Value(key, "other", detail="an SQL NULL")
    if row["size"] > MAX_VALUE_BYTES:
        return Value(key, "unreadable", detail=f"{row['size'] / 1e6:.0f} MB of JSON")
    return None if row["data"] is None else Value(key, "text", row["data"])


def _said(exc: SomactlError) -> str:
    cause = exc.__cause__ or exc
    return f"the server cannot read it: {cause.args[0]}"


_Row: TypeAlias = "tuple[str | None, str | None, str | None]"


def _columns(rows: Sequence[_Row]) -> list[list[str | None]]:
    return [[row[i] for row in rows] for i in range(3)]


def _row(change: Change) -> _Row:
    """Key, before and after as PostgreSQL takes them. Without a key where it could never hold one of them."""
    values = (change.before, change.after)
    try:
        before, after = (None if value is None else value.decode() for value in values)
    except UnicodeDecodeError:
        return None, None, None
    if not _storable(change.key) or any(value is not None and 0 in value for value in values):
        return None, None, None
    return change.key, before, after


def _storable(key: str) -> bool:
    """Whether PostgreSQL has such a text: UTF-8, without NUL."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in key

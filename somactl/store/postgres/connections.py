"""Connections to one database, leased one call at a time.

asyncpg's own pool would do, but for one thing: what was learnt about statements (`session.py`) ends there
when a connection is given back. And it asks the server to reset the connection, another round trip, for
which there is no need: nothing that a transaction here leaves behind outlives it.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType

from somactl.errors import NamespaceNotFound, SomactlError, StoreBusy
from somactl.store.home import Home
from somactl.store.postgres import failures, framing, schema
from somactl.store.postgres.session import BROKEN, Session
from somactl.store.postgres.target import Target
from somactl.suggestion import run

_RESTED_SECONDS = 10.0
"""After this long without use a connection is asked whether it is alive before anything depends on it: a
firewall may have forgotten it."""
_LIFETIME_SECONDS = 600.0
"""A connection is replaced after this long, so that its look at the schema's version is never older."""
_CLOSE_SECONDS = 1.0


class Connections:
    """At most `target.pool_size` connections, made when they are needed.

    A connection goes back only if its call came to an end. One whose call was cancelled, timed out or lost
    is closed, so that a late answer reaches no other caller.
    """

    def __init__(self, target: Target, *, timeout: float, connect_timeout: float) -> None:
        self.target = target
        self.place = target.public
        self._timeout = timeout
        self._connect_timeout = target.connect_timeout or connect_timeout
        self._free = asyncio.Semaphore(target.pool_size)
        self._idle: list[Session] = []
        self._leased: set[Session] = set()
        self._closed = False
        self._named = True
        self._home = Home(self._leave)

    def lease(self, *, write: bool = False, bare: bool = False) -> Lease:
        """`async with` gives a session on a database whose schema this somactl can read, and write where it
        is to; `bare`: on any, for a caller that looks at the schema itself.

        What asyncpg raises inside is raised as an error of `somactl.errors`. Raises NamespaceNotFound where
        the database was never initialised, SchemaMismatch where its schema is not ours to use, StoreBusy
        where no connection becomes free in time, and what `failures.translate_connect` knows.
        """
        return Lease(self, write, bare)

    async def take(self, *, write: bool, bare: bool) -> Session:
        """A session, which must be given back; see `lease`."""
        self._home.enter()
        self._refuse_closed()
        if self._free.locked():
            await self._wait()
        else:
            await self._free.acquire()
        try:
            session = None if bare else await self._rested()
            session = session or await self._connect()
            if not bare:
                self._admit(session, write)
        except BaseException:
            self._free.release()
            raise
        self._leased.add(session)
        return session

    def give_back(self, session: Session, *, ended: bool) -> None:
        """`ended`: all that was asked has been answered, so that the session can serve another call."""
        if session not in self._leased:  # it was left to the parent process
            return
        self._leased.remove(session)
        self._free.release()
        connection = session.connection
        session.used = time.monotonic()
        if connection.is_closed():
            return
        old = session.used - session.born > _LIFETIME_SECONDS
        if not ended or old or self._closed or connection.is_in_transaction():
            connection.terminate()
        else:
            self._idle.append(session)

    def give_up_names(self) -> None:
        """A pooler stands between us and the server, so statements must do without names from now on."""
        self._named = False
        for session in self._idle:
            session.connection.terminate()

    async def close(self) -> None:
        """Close what is idle, cut off what is leased; harmless when repeated."""
        self._home.enter()
        self._closed = True
        idle, self._idle = self._idle, []
        for session in self._leased:
            session.connection.terminate()
        await asyncio.gather(*(_close(session) for session in idle))
        await asyncio.sleep(0)  # the loop has to see the sockets of terminated connections closed

    def _leave(self) -> object:
        left = [*self._idle, *self._leased]
        self._idle, self._leased = [], set()
        self._free = asyncio.Semaphore(self.target.pool_size)
        return left

    async def _wait(self) -> None:
        """Wait for a connection that is given back."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._free.acquire()
        except TimeoutError:
            raise StoreBusy(
                f"all {self.target.pool_size} connections to {self.place} stayed in use",
                hint="ask for less at once, or raise ?pool_size= in the URL",
            ) from None

    async def _rested(self) -> Session | None:
        """The session that was used last, if it still answers."""
        while self._idle:
            session = self._idle.pop()
            if session.connection.is_closed():
                continue
            rested = time.monotonic() - session.used >= _RESTED_SECONDS
            if not rested:
                return session
            try:
                if await session.is_current(self._connect_timeout):
                    return session
            except BROKEN:
                pass
            except BaseException:
                session.connection.terminate()
                raise
            session.connection.terminate()
        return None

    async def _connect(self) -> Session:
        self._refuse_closed()
        self._check_files()
        connection = None
        try:
            connection = await framing.connect(self.target.arguments, self._connect_timeout)
            seen = await schema.inspect(connection, self.place, self._timeout)
        except BaseException as exc:
            if connection is not None:
                connection.terminate()
            if not isinstance(exc, Exception) or isinstance(exc, SomactlError):
                raise
            translate = failures.translate if connection else failures.translate_connect
            error = translate(exc, self.place)
            if error is None:
                raise
            raise error from exc
        # A pooler tells its clients a process that is not the one that answers.
        named = self._named and seen.backend == connection.get_server_pid()
        return Session(connection, self.place, self._timeout, seen.schema, named)

    def _admit(self, session: Session, write: bool) -> None:
        try:
            if session.schema is None:
                raise NamespaceNotFound(
                    f"{self.place} was never initialised: it has no tables of somactl's",
                    hint="do it with a role that may create a schema",
                    next=run("init"),
                )
            schema.admit(session.schema, self.place, write=write)
        except SomactlError:
            session.connection.terminate()  # the next call looks again
            raise

    def _refuse_closed(self) -> None:
        if self._closed:
            raise SomactlError(f"the store of {self.place} is used after it was closed")

    def _check_files(self) -> None:
        for parameter, path in self.target.files.items():
            try:
                with open(path, "rb"):
                    pass
            except OSError as exc:
                raise failures.unreadable(parameter, exc, self.place) from exc


class Lease:
    """One session for one call: see `Connections.lease`."""

    def __init__(self, connections: Connections, write: bool, bare: bool) -> None:
        self._connections = connections
        self._write = write
        self._bare = bare

    async def __aenter__(self) -> Session:
        self._session = await self._connections.take(write=self._write, bare=self._bare)
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = exc is None or isinstance(exc, SomactlError) or failures.is_answer(exc)
        if exc is not None and failures.sqlstate(exc) in failures.FORGOTTEN:
            self._connections.give_up_names()
            ended = False
        self._connections.give_back(self._session, ended=ended and not self._bare)
        if isinstance(exc, Exception) and not isinstance(exc, SomactlError):
            error = failures.translate(exc, self._connections.place)
            if error is not None:
                raise error from exc


async def _close(session: Session) -> None:
    """Say goodbye to the server; one that does not take it in time is cut off."""
    try:
        await session.connection.close(timeout=_CLOSE_SECONDS)
    except BROKEN:
        session.connection.terminate()

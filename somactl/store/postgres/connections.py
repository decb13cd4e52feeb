"""The server that a URL names, and connections to its database, leased one call at a time.

asyncpg's own pool would do, but for one thing: what was learnt about statements (`session.py`) ends there
when a connection is given back. And it asks the server to reset the connection, another round trip, for
which there is no need: nothing that a transaction here leaves behind outlives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import urlencode
from weakref import WeakValueDictionary

from somactl.address import Address, Use, is_local, parse as parse_address
from somactl.address.address import DEFAULT_PORTS
from somactl.address.parse import SHAPES
from somactl.errors import ConfigurationError, NamespaceNotFound, SomactlError, StoreBusy
from somactl.store.calls import NOTICED_SECONDS, Home, hear
from somactl.store.postgres import failures, framing, schema
from somactl.store.postgres.session import BROKEN, Row, Session
from somactl.suggestion import run

_RESTED_SECONDS = 10.0
"""After this long without use a connection is asked whether it is alive before anything depends on it: a
firewall may have forgotten it."""
_LIFETIME_SECONDS = 600.0
"""A connection is replaced after this long, so that its look at the schema's version is never older."""
_CLOSE_SECONDS = 1.0
_WRITERS = 2
"""Of one namespace at a time: one has its lock, and the next one is there when that goes."""
POOL_SIZE = 10
_NAME_BYTES = 63
"""PostgreSQL cuts longer names off, and says so in its log."""
_TLS_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_FROM_URL = (*_TLS_FILES, "sslmode", "sslpassword")
_VERSIONS = ("ssl_min_protocol_version", "ssl_max_protocol_version")
"""What asyncpg takes from a URL alone."""
_ARGUMENTS = ("passfile", "target_session_attrs", "krbsrvname", "gsslib")
"""What it takes as arguments of the same name."""


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
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
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
        hint = "ask for less at once, or raise ?pool_size= in the URL"
        await self._acquire(self._free, f"all {self.target.pool_size} connections to {self.place}", hint)
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
        self._turns = WeakValueDictionary()
        self._free = asyncio.Semaphore(self.target.pool_size)
        return left

    @contextlib.asynccontextmanager
    async def turn(self, namespace: str) -> AsyncIterator[None]:
        """For a writer of `namespace`. More of them would wait for each other in the server, each with a
        connection that other namespaces need. Raises StoreBusy where none of them comes to an end in time."""
        self._home.enter()
        turn = self._turns.setdefault(namespace, asyncio.Semaphore(_WRITERS))
        what = f"the {_WRITERS} connections to {self.place} for writers of {namespace!r}"
        await self._acquire(turn, what, "write less at once, in larger commits")
        try:
            yield
        finally:
            turn.release()

    async def _acquire(self, free: asyncio.Semaphore, what: str, hint: str) -> None:
        if not free.locked():
            await free.acquire()
            return
        try:
            async with asyncio.timeout(self._timeout):
                await free.acquire()
        except TimeoutError:
            raise StoreBusy(f"{what} stayed in use", hint=hint) from None

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
        hear(seen.now)
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


@dataclass(frozen=True, slots=True)
class Target:
    """`arguments` are those of `asyncpg.connect`; `public` is the URL as a message may show it; `files` are
    those that it needs, by the parameter that names them; `hosts` are those that the URL names;
    `identity` is `public` with every default written out; `table` that of a source."""

    public: str
    arguments: Mapping[str, Any] = field(repr=False)
    pool_size: int
    connect_timeout: float | None
    files: Mapping[str, str]
    hosts: tuple[str, ...]
    sslmode: str
    identity: str
    table: str | None


def parse(url: str, use: Use = "store", *, client: str = "somactl") -> Target:
    """`client` is the application name where the URL gives none.

    Raises ConfigurationError for a URL that is none of PostgreSQL's, or asks for what is not known.
    """
    address = parse_address(url, use)
    if address.kind != "postgres":
        raise ConfigurationError(f"{address} is not one of PostgreSQL's URLs", hint=SHAPES["postgres"])
    options = dict(address.options)
    hosts = tuple(host.name for host in address.hosts)
    sslmode = options.get("sslmode", "prefer" if all(map(is_local, hosts)) else "verify-full")
    if options.get("sslnegotiation") == "direct" and sslmode in ("disable", "allow", "prefer"):
        raise ConfigurationError(
            f"{address} asks for TLS from the first byte, and would do without it",
            hint="add sslmode=require or a stricter one, or leave sslnegotiation=direct out",
        )
    if options.get("sslrootcert") == "system":
        options["sslrootcert"] = _system_authorities(address.public)
    patience = options.get("connect_timeout")
    return Target(
        address.public,
        _arguments(address, {"application_name": client} | options | {"sslmode": sslmode}),
        int(options.get("pool_size", POOL_SIZE)),
        None if patience is None else int(patience),
        {name: options[name] for name in (*_TLS_FILES, "passfile") if name in options},
        hosts,
        sslmode,
        address.identity,
        options.get("table"),
    )


def _arguments(address: Address, options: Mapping[str, str]) -> dict[str, Any]:
    """Those of `asyncpg.connect`. Host and port are always among them, so that no PGHOST or PGPORT can lead
    elsewhere; user, password and database come from the environment where the URL does not name them."""
    arguments: dict[str, Any] = {
        "dsn": "postgresql://?"
        + urlencode({k: options[k] for k in (*_FROM_URL, *_VERSIONS) if k in options}),
        "host": [host.name for host in address.hosts],
        "port": [host.port or DEFAULT_PORTS["postgres"] for host in address.hosts],
        **{name: options[name] for name in _ARGUMENTS if name in options},
    }
    named = {"user": address.user, "password": address.password, "database": address.database or None}
    arguments |= {name: value for name, value in named.items() if value is not None}
    if "sslnegotiation" in options:
        arguments["direct_tls"] = options["sslnegotiation"] == "direct"
    arguments["server_settings"] = {"application_name": options["application_name"][:_NAME_BYTES]}
    return arguments


def _system_authorities(shown: str) -> str:
    paths = ssl.get_default_verify_paths()
    if paths.cafile is None:
        raise ConfigurationError(
            f"the URL {shown} asks for the system's certificate authorities, and there are none",
            hint=f"install them, or name a file with sslrootcert (OpenSSL looks at {paths.openssl_cafile})",
        )
    return paths.cafile


@contextlib.asynccontextmanager
async def watched(
    session: Session, connections: Connections, tell: Callable[[str], None]
) -> AsyncIterator[None]:
    """While the block runs, `tell` who holds the lock that `session` waits for, at most once a second."""
    watcher = asyncio.create_task(_watch(session, connections, tell))
    try:
        yield
    finally:
        watcher.cancel()
        await asyncio.wait([watcher])


async def _watch(session: Session, connections: Connections, tell: Callable[[str], None]) -> None:
    with contextlib.suppress(SomactlError):
        while True:
            await asyncio.sleep(NOTICED_SECONDS)
            async with connections.lease(bare=True) as other:
                rows = await other.rows("blockers", session.connection.get_server_pid())
            if rows:
                tell(", ".join(map(_told, rows)))


def _told(row: Row) -> str:
    name = f" ({row['name']})" if row["name"] else ""
    state = f", {row['state']} for {row['seconds']:.0f} s" if row["state"] and row["seconds"] else ""
    return f"process {row['pid']}{name}{state}"

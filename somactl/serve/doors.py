"""Reads and prune orders as both faces offer them: HTTP and gRPC say the same, each in its own words.

    doors = Doors(server, ["default"], Access.open(path, log), log)
    entry = await doors.read(credentials, "acme:(9.0, 14.0, 43.0):data", namespace="acme")
    run = await doors.prune(credentials, order, options, namespace="acme", door="grpc")
    report = await run.report(seconds=30)          # None: it goes on without us

Every method raises Denied before it touches a store, and else what the store and the operation raise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from somactl.core.names import validate_key, validate_namespace
from somactl.errors import NamespaceNotFound, NotFound, SomactlError, StoreBusy, UsageError
from somactl.operations.orders import OrderOptions, Orders, Run
from somactl.report import OrderStatus, PruneReport
from somactl.runtime import Server
from somactl.serve.access import Access, Credentials
from somactl.serve.log import Log
from somactl.serve.tokens import Caller, Role
from somactl.store.contract import Entry, Store
from somactl.store.metered import Metered, Observer
from somactl.store.wrapper import ReadOnly

READS_AT_ONCE: Final = 16
"""Values may have 256 MiB each: more reads than this wait, and give up after READ_WAIT_SECONDS."""
READ_WAIT_SECONDS: Final = 5.0


class Doors:
    """The doors of the namespaces that are served.

    access  who may open them: it is read again on SIGHUP by `access.reload()`
    """

    def __init__(
        self,
        server: Server,
        namespaces: Sequence[str],
        access: Access,
        log: Log,
        *,
        observers: Callable[[str], Observer] | None = None,
    ) -> None:
        """`observers` gives the one that is told how long reads and commits of a namespace took.
        Raises InvalidName."""
        self.access = access
        self._stores = {name: _store(server, name, observers) for name in namespaces}
        self._log = log
        self._orders = Orders(ended=self._note_end)
        self._reads = asyncio.Semaphore(READS_AT_ONCE)

    @property
    def namespaces(self) -> tuple[str, ...]:
        return tuple(self._stores)

    @property
    def orders_running(self) -> int:
        return self._orders.running

    def admit(self, role: Role, credentials: Credentials, *, namespace: str | None = None) -> Caller:
        """Who would be let in, as each method asks anew. Raises Denied, UsageError, NamespaceNotFound."""
        return self._open(role, credentials, namespace)[0]

    async def read(
        self, credentials: Credentials, key: str, *, namespace: str | None = None, version: int | None = None
    ) -> Entry:
        """One value, verified by the store. Raises Denied, InvalidName, UsageError, KeyNotFound,
        VersionCompacted, CorruptValue, StoreUnavailable."""
        _, store = self._open("read", credentials, namespace)
        validate_key(key)
        if version is not None and version < 1:
            raise UsageError("a version is a whole number from 1")
        try:
            await asyncio.wait_for(self._reads.acquire(), READ_WAIT_SECONDS)
        except TimeoutError:
            raise StoreBusy("too many values are being read", hint="ask again later") from None
        try:
            return await store.read(key, version)
        finally:
            self._reads.release()

    async def prune(
        self,
        credentials: Credentials,
        order: bytes,
        options: OrderOptions,
        *,
        door: str,
        namespace: str | None = None,
    ) -> Run:
        """Have an order carried out, by a run that outlives the call: `await run.report(seconds)`.

        Raises Denied, and what `Orders.begin` does."""
        caller, store = self._open("prune", credentials, namespace)
        return await self._orders.begin(store, order, options, caller=caller.name, door=door)

    async def foresee(
        self, credentials: Credentials, order: bytes, options: OrderOptions, *, namespace: str | None = None
    ) -> PruneReport:
        """What an order would delete now; nothing is written."""
        _, store = self._open("prune", credentials, namespace)
        return await self._orders.foresee(ReadOnly(store), order, options)

    async def order_status(
        self, credentials: Credentials, order_id: str, *, namespace: str | None = None
    ) -> OrderStatus:
        """How far an order is. Raises NotFound where it is not known."""
        _, store = self._open("prune", credentials, namespace)
        status = await self._orders.status(store, order_id)
        if status is None:
            raise NotFound(f"no order {order_id} is known in namespace {store.namespace}")
        return status

    async def stop(self, seconds: float) -> None:
        """Before the stores are closed: see `Orders.stop`."""
        await self._orders.stop(seconds)

    def _open(self, role: Role, credentials: Credentials, namespace: str | None) -> tuple[Caller, Store]:
        """The caller, and the store of the namespace. Who may not enter does not learn what is served."""
        named = namespace if namespace is not None else self._only()
        if named is not None:
            validate_namespace(named)
        caller = self.access.admit(role, named, credentials)
        if named is None:
            usable = ", ".join(name for name in self._stores if caller.may_use(name))
            raise UsageError("several namespaces are served: name one with `namespace`", hint=usable or None)
        store = self._stores.get(named)
        if store is None:
            raise NamespaceNotFound(f"namespace {named} is not served here")
        return caller, store

    def _note_end(self, run: Run) -> None:
        """One line for each order, so that the log tells who had what done."""
        who = {"order": run.order_id, "caller": run.caller, "door": run.door, "namespace": run.namespace}
        error = run.task.exception()
        if error is not None:
            told = error.message if isinstance(error, SomactlError) else "a bug in somactl"
            self._log.event("order", **who, error=type(error).__name__, why=told)
            return
        report = run.task.result()
        self._log.event(
            "order",
            **who,
            code=report.code,
            deleted=report.deleted_keys,
            stopped=report.stopped,
            replayed=report.replayed or None,
        )

    def _only(self) -> str | None:
        return next(iter(self._stores)) if len(self._stores) == 1 else None


def _store(server: Server, name: str, observers: Callable[[str], Observer] | None) -> Store:
    store = server.namespace(name)
    return store if observers is None else Metered(store, observers(name))

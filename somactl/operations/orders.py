"""The one door of prune orders that come from a service: over HTTP, over gRPC, from a queue.

Behind it is `operations.prune`, which carries an order out once by its id, however often it is sent. What
the door adds is a run that outlives the call: a caller who leaves changes nothing, a second one who sends the
same order meanwhile waits for the same report, and a server that stops ends each run between two batches.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import msgspec

from somactl.core.order import Order, parse_order, validate_order_id
from somactl.core.retention import Goal
from somactl.errors import CommitIdReused, SomactlError, StoreBusy, Terminated, UsageError
from somactl.operations.prune import PruneRequest, prune
from somactl.operations.prune.operation import given_id
from somactl.operations.prune.record import OrderRecord, order_record, order_view
from somactl.report import OrderFailure, OrderState, OrderStatus, PruneReport
from somactl.store.contract import DAY, Store

MAX_RUNS: Final = 8
"""Orders that are carried out at once. One more is told to come again."""
MAX_REMEMBERED: Final = 1000
"""Runs that failed, of which the status of an order still tells why."""
_PARSED_AT_ONCE = 2


class OrderOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an order is to be carried out: the flags of `somactl prune`, as every door has them.

    order_id   the order's id, where it is no message, which has one of its own
    limit, keep, max_bytes   at most one of them: delete so many; until so many keys, or bytes, are left
    grace      seconds for which what is deleted can be restored; 0 frees it for good, and wants `yes`
    batch      items of the order in one commit; needed beyond 10,000
    missing    what a key that is not there means
    changed    what a key that was written since its ranking means
    dry_run    only say what would be deleted
    yes        what is deleted need not be restorable
    """

    order_id: str | None = None
    limit: int | None = None
    keep: int | None = None
    max_bytes: int | None = None
    grace: float = DAY
    batch: int | None = None
    missing: Literal["ignore", "fail"] = "ignore"
    changed: Literal["skip", "fail"] = "skip"
    dry_run: bool = False
    yes: bool = False

    def request(self, **beside: Any) -> PruneRequest:
        """What they ask for, with what else a PruneRequest has. Raises UsageError."""
        if self.grace == 0 and not (self.yes or self.dry_run):
            raise UsageError("a grace of 0 deletes for good", hint="say so with `yes`, or leave `grace` out")
        request = PruneRequest(
            goal=self._goal(),
            order_id=self.order_id,
            batch=self.batch,
            missing=self.missing,
            changed=self.changed,
            grace=self.grace,
            dry_run=self.dry_run,
            **beside,
        )
        request.check()
        return request

    def _goal(self) -> Goal:
        given = [
            *([] if self.limit is None else [Goal("limit", self.limit)]),
            *([] if self.keep is None else [Goal("keep", self.keep)]),
            *([] if self.max_bytes is None else [Goal("max-bytes", self.max_bytes)]),
        ]
        if len(given) > 1:
            raise UsageError("limit, keep and max_bytes do not go together", hint="give one of them")
        return given[0] if given else Goal()


@dataclass(eq=False)
class Run:
    """One order that is being carried out, or was, for every caller who sent it meanwhile.

    stands_for  its digest and what decides what it deletes
    """

    namespace: str
    order_id: str
    caller: str
    door: str
    stands_for: tuple[str, Mapping[str, Any]]
    task: asyncio.Task[PruneReport] = field(init=False)

    async def report(self, seconds: float | None = None) -> PruneReport | None:
        """What came of it; None where that takes longer. Raises what the run raised.

        A caller who is cancelled here leaves, and the run goes on.
        """
        done, _ = await asyncio.wait({self.task}, timeout=seconds)
        return self.task.result() if done else None


class Orders:
    """The orders that this process carries out.

    ended  called with each run once its task is done
    """

    def __init__(self, *, at_once: int = MAX_RUNS, ended: Callable[[Run], None] = lambda run: None) -> None:
        self._at_once = at_once
        self._ended = ended
        self._runs: dict[tuple[str, str], Run] = {}
        self._failed: OrderedDict[tuple[str, str], OrderFailure] = OrderedDict()
        self._parsing = asyncio.Semaphore(_PARSED_AT_ONCE)
        self._is_stopping = False

    @property
    def running(self) -> int:
        """How many are under way."""
        return len(self._runs)

    async def begin(self, store: Store, data: bytes, options: OrderOptions, *, caller: str, door: str) -> Run:
        """Have the order in `data` carried out; or join the run that carries it out already.

        Raises what is wrong with the order or the options before anything begins (UsageError for an order
        without an id), CommitIdReused for another order under the id of one that is under way, StoreBusy
        where too many are, Terminated where the process is about to end.
        """
        request = options.request(caller=caller, door=door, stop=self._why_stop)
        order = await self._parsed(data)
        order_id = given_id(order, request)
        if order_id is None:
            raise UsageError(
                "the order has no id, without which it could be carried out twice",
                hint="give it one with `order_id`, or send a prune.order message, which has its own",
            )
        stands_for = order.digest, request.written(directed=True)
        run = self._runs.get((store.namespace, order_id))
        if run is None:
            run = Run(store.namespace, order_id, caller, door, stands_for)
            self._start(run, prune(store, order, replace(request, order_id=order_id)))
        elif run.stands_for != stands_for:
            raise CommitIdReused(
                f"order id {order_id} is being carried out for another order, or with other options",
                hint="an id stands for one order and its options: use a new one for another",
                commit_id=order_id,
            )
        return run

    def _start(self, run: Run, work: Coroutine[Any, Any, PruneReport]) -> None:
        """Raises Terminated, StoreBusy."""
        error = self._why_stop()
        if error is None and len(self._runs) >= self._at_once:
            error = StoreBusy(
                f"{len(self._runs)} prune orders are being carried out already", hint="send it again later"
            )
        if error is not None:
            work.close()
            raise error
        self._runs[run.namespace, run.order_id] = run
        run.task = asyncio.create_task(_to_its_end(work), name=f"order {run.order_id}")
        run.task.add_done_callback(lambda _: self._note_end(run))

    def _note_end(self, run: Run) -> None:
        where = run.namespace, run.order_id
        del self._runs[where]
        if (failure := _failure(run.task)) is not None:
            self._failed[where] = failure
        while len(self._failed) > MAX_REMEMBERED:
            self._failed.popitem(last=False)
        self._ended(run)

    async def foresee(self, store: Store, data: bytes, options: OrderOptions) -> PruneReport:
        """What the order would delete now. `store` is opened read-only; the order needs no id."""
        request = msgspec.structs.replace(options, dry_run=True).request()
        order = await self._parsed(data)
        return await prune(store, order, request)

    async def status(self, store: Store, order_id: str) -> OrderStatus | None:
        """How far an order is; None where neither the namespace nor this process knows of it."""
        where = store.namespace, validate_order_id(order_id)
        is_running = where in self._runs
        record = await order_record(store, order_id)
        failure = None if is_running else self._failed.get(where)
        if record is None and failure is None and not is_running:
            return None
        report = None if record is None else record.report
        return OrderStatus(
            order_id=order_id,
            namespace=store.namespace,
            state=_state(record, is_running=is_running),
            order=None if record is None else await order_view(store, record),
            report=report,
            failure=failure if report is None else None,
        )

    async def stop(self, seconds: float) -> None:
        """Let no order begin, and end each run between two batches. What takes longer is interrupted, which
        settles the commit that is on its way. All can be gone on with by sending them again."""
        self._is_stopping = True
        tasks = [run.task for run in self._runs.values()]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    async def _parsed(self, data: bytes) -> Order:
        async with self._parsing:
            return await asyncio.to_thread(parse_order, data)

    def _why_stop(self) -> SomactlError | None:
        return _ending() if self._is_stopping else None


def _ending() -> Terminated:
    return Terminated("the service is about to end", hint="send the order again: it is then gone on with")


async def _to_its_end(work: Coroutine[Any, Any, PruneReport]) -> PruneReport:
    try:
        return await work
    except asyncio.CancelledError:  # before it was accepted; from then on there is a report
        raise _ending() from None


def _failure(task: asyncio.Task[PruneReport]) -> OrderFailure | None:
    """Why a run did not come to its end; None where it did."""
    error = task.exception()
    if error is None:
        report = task.result()
        return None if report.complete or report.final else OrderFailure(report.code, report.stopped or "")
    if isinstance(error, SomactlError):
        return OrderFailure(error.exit_code, error.message, type(error).__name__)
    return OrderFailure(1, "a bug in somactl", type(error).__name__)


def _state(record: OrderRecord | None, *, is_running: bool) -> OrderState:
    if record is not None and record.report is not None:
        return "done"
    if is_running:
        return "running"
    return "failed" if record is None else "unfinished"

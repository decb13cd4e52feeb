"""Proves the tasks of an audit on the workers of a Dask cluster.

Names of keys go there, and findings come back: a worker reads the store itself. The store's address travels
without secrets: each worker has a right of its own to read it. The scheduler needs nothing of somactl.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import time
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from somactl import __version__
from somactl.errors import ConfigurationError, WorkerLost
from somactl.operations.audit.model import Check, Proven, Task
from somactl.operations.audit.remote import job
from somactl.operations.audit.workers import Opener, lost

if TYPE_CHECKING:
    from concurrent.futures import Future

WINDOW = 2
"""How many tasks are given out for each thread of the cluster, so that it finds a next one."""
TASK_SECONDS = 1.0
"""A task costs the cluster some 6 ms, whatever it is: of this length, under one in a hundred."""
_ANSWER_SECONDS = 10.0
"""How long the scheduler may be silent, and the cluster without a worker."""
_LOOK_SECONDS = 1.0
_CLOSE_SECONDS = 2.0
_SCHEMES = ("tcp://", "tls://", "ws://", "wss://", "ucx://")


class Dask:
    """Proves on the workers of the cluster whose scheduler is at `address`, as it has been connected to.

    A task whose worker is killed is done again on another one, as often as the cluster's own setting says
    (`distributed.scheduler.allowed-failures`). Raises WorkerLost where the scheduler or all workers are gone.
    """

    def __init__(self, client: Any, address: str, opener: Opener, check: Check) -> None:
        self._client, self._address = client, address
        self._job = job(opener, check)
        self._executor = client.get_executor(pure=False)
        self.threads: int = sum(client.nthreads().values())
        self._rate = 0.0
        self._watching: asyncio.Task[WorkerLost] | None = None

    @classmethod
    async def connect(cls, address: str, opener: Opener, check: Check) -> Dask:
        """Connect, and wait until there is a worker.

        Raises ConfigurationError where the package `distributed` is not installed or the address is none,
        WorkerLost where no scheduler answers there in time, or it has no worker.
        """
        return await asyncio.to_thread(lambda: cls(_client(address), address, opener, check))

    @property
    def task_bytes(self) -> int:
        """What a worker reads and proves in a second, as measured so far."""
        return int(self._rate * TASK_SECONDS)

    @property
    def count(self) -> int:
        return WINDOW * max(1, self.threads)

    async def prove(self, task: Task) -> Proven:
        if not task.keys:
            return Proven(results=[], absent=[])
        self._watching = self._watching or asyncio.create_task(self._watch())
        given = self._executor.submit(_on_worker(), __version__, self._job, pickle.dumps(task))
        outcome = asyncio.wrap_future(given)
        try:
            await asyncio.wait({outcome, self._watching}, return_when=asyncio.FIRST_COMPLETED)
            if outcome.done():
                return self._understood(given, task)
            raise _again(self._watching.result())
        finally:
            outcome.cancel()

    def _understood(self, given: Future[Any], task: Task) -> Proven:
        """The outcome of a task that has ended, one way or the other."""
        if given.cancelled():
            raise self._gone()
        error = given.exception()
        if error is not None:
            raise self._translated(error, task) from error
        answer = given.result()
        if isinstance(answer, str):
            raise ConfigurationError(
                f"a Dask worker of {self._address} has somactl {answer}, and this is {__version__}",
                hint="install the same version here and on all workers",
            )
        found: Proven | Exception
        found, seconds = pickle.loads(answer)
        if isinstance(found, Exception):
            raise found
        self._measure(found.bytes_, seconds)
        return found

    def _measure(self, bytes_: int, seconds: float) -> None:
        rate = bytes_ / max(seconds, 1e-3)
        self._rate = rate if not self._rate else self._rate + (rate - self._rate) / 4

    def _translated(self, error: BaseException, task: Task) -> Exception:
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError
        from distributed.comm.core import CommClosedError

        if isinstance(error, KilledWorker):
            return lost(f"the Dask cluster lost a worker {error.allowed_failures + 1} times", task)
        if isinstance(error, (FutureCancelledError, CommClosedError)):
            return self._gone()
        if isinstance(error, ImportError):
            return ConfigurationError(
                f"a Dask worker of {self._address} cannot load somactl {__version__}: {error}",
                hint="install it there: pip install 'somactl[distributed]'",
            )
        assert isinstance(error, Exception)
        return error

    def _gone(self) -> WorkerLost:
        return WorkerLost(
            f"the Dask scheduler at {self._address} is gone, or out of reach",
            hint="what was proven until then is in the report; start the scheduler and its workers again",
        )

    async def _watch(self) -> WorkerLost:
        """Return once the cluster cannot go on: its futures alone would wait for minutes, or for ever."""
        since = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                cores = await asyncio.wait_for(self._cores(), _ANSWER_SECONDS)
            except Exception:  # whatever the client makes of a scheduler that does not answer
                return self._gone()
            if cores:
                since, self.threads = time.monotonic(), sum(cores.values())
            elif time.monotonic() - since > _ANSWER_SECONDS:
                return _no_worker(self._address)

    async def _cores(self) -> Mapping[str, int]:
        """The threads of each worker; it is asked for in the loop of the client's own thread."""
        asked = asyncio.run_coroutine_threadsafe(_asked(self._client), self._client.loop.asyncio_loop)
        return await asyncio.wrap_future(asked)

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        await asyncio.to_thread(_closed, self._client)


async def _asked(client: Any) -> Mapping[str, int]:
    cores: Mapping[str, int] = await client.scheduler.ncores()
    return cores


def _again(error: WorkerLost) -> WorkerLost:
    """The same error anew: each task that waits raises one of its own."""
    return WorkerLost(error.message, hint=error.hint)


def _no_worker(address: str) -> WorkerLost:
    return WorkerLost(
        f"the Dask scheduler at {address} has had no worker for {_ANSWER_SECONDS:g} s",
        hint=f"start some: dask worker {address}",
    )


def _client(address: str) -> Any:
    """A client of a cluster that has a worker. It blocks, so it is called in a thread."""
    if not address.startswith(_SCHEMES):
        raise ConfigurationError(
            f"{address!r} is no address of a Dask scheduler",
            hint="write it as tcp://HOST:8786 or tls://HOST:8786",
        )
    try:
        import distributed
        from distributed.versions import VersionMismatchWarning
    except ImportError as exc:
        raise ConfigurationError(
            f"a Dask cluster needs a package that is not installed: {exc.name}",
            hint="pip install 'somactl[distributed]'",
        ) from None
    _hush()
    warnings.filterwarnings(
        "ignore", category=VersionMismatchWarning
    )  # of somactl's version we tell ourselves
    within = f"{_ANSWER_SECONDS:g}s"
    try:
        client = distributed.Client(  # type: ignore[no-untyped-call]
            address, timeout=within, set_as_default=False, name="somactl"
        )
    except (OSError, ValueError) as exc:
        raise WorkerLost(
            f"no Dask scheduler answers at {address}: {exc}",
            hint="start it with `dask scheduler`, or mend the address",
        ) from None
    try:
        client.wait_for_workers(1, timeout=_ANSWER_SECONDS)
    except Exception as exc:
        _closed(client)
        raise _no_worker(address) from exc
    return client


def _closed(client: Any) -> None:
    client.close(timeout=_CLOSE_SECONDS)


def _hush() -> None:
    """What Dask logs of lost connections we tell in one sentence."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in ("distributed", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _on_worker() -> Callable[[str, bytes, bytes], str | bytes]:
    """What a worker calls. A function inside another one travels as code: so the scheduler, which hands it
    on, need not have somactl, and a worker that has another version can say so."""

    def prove_there(version: str, job: bytes, task: bytes) -> str | bytes:
        import somactl

        if somactl.__version__ != version:
            return somactl.__version__
        from somactl.operations.audit.remote import prove

        return prove(job, task)

    return prove_there

"""Audits of matrices 64x64 in SQLite: by two jobs against one, and by a Dask cluster against two jobs.

Each side lists the keys and proves them all, several times over; its workers are started and ended within
the time that is taken. The cluster is there before, and stays.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from matrices import density
from measure import Effort, Row, Side, interleave, ratio
from stores import VERDICT

from somactl.config import Settings
from somactl.core.envelope import serialize_matrix
from somactl.core.framing import peek
from somactl.operations.audit.dask import Dask
from somactl.operations.audit.model import Check, Tally
from somactl.operations.audit.pages import Bounds, Page, pages
from somactl.operations.audit.proofs import Proofs
from somactl.operations.audit.workers import Inline, Processes, Workers
from somactl.report import VerifyReport
from somactl.runtime import AuthorityOpener, RemoteOpener, open_store
from somactl.store.contract import CommitMetadata, Store

COUNT = 20_000
PASSES, DASK_PASSES = 4, 10
ROWS = ["audit-jobs", "audit-dask"]
_AT_ONCE = 2000


async def _fill(settings: Settings) -> None:
    matrices = [density(64, seed=seed) for seed in range(16)]
    async with open_store(settings) as store:
        for start in range(0, COUNT, _AT_ONCE):
            keys = [f"acme:(9.0, 14.0, {number}.0):rho" for number in range(start, start + _AT_ONCE)]
            values = {
                key: serialize_matrix(matrices[place % 16], key=key, kind="rho", timestamp=0.0)
                for place, key in enumerate(keys)
            }
            verdicts = {peek(data).content: VERDICT for data in values.values()}
            metadata = CommitMetadata(verdicts=verdicts)
            await store.commit_matrix_update(values, metadata, commit_id=f"bench-{start}")


async def _pages(store: Store, passes: int) -> AsyncGenerator[Page, None]:
    for _ in range(passes):
        async for page in pages(store, Bounds()):
            yield page


def _side(name: str, settings: Settings, begin: Callable[[Store], Awaitable[Workers]], passes: int) -> Side:
    """An audit with the workers that `begin` gives, in an event loop of its own."""

    async def audit() -> None:
        async with open_store(settings, read_only=True) as store:
            workers = await begin(store)
            report = VerifyReport(method="certify")
            try:
                await Proofs(workers, Tally(report)).prove(_pages(store, passes))
            finally:
                await workers.close()
        if report.valid != COUNT * passes:
            raise RuntimeError(f"{name}: {report.valid} of {COUNT * passes} are valid")

    def seconds(threads: int) -> float:
        start = time.perf_counter()
        asyncio.run(audit())
        return time.perf_counter() - start

    return Side(name, seconds, threaded=False)


@contextmanager
def _cluster(folder: Path) -> Iterator[str]:
    """The address of a scheduler with two workers of one thread each."""
    place = folder / "scheduler.json"
    quiet = ["--scheduler-file", str(place), "--host", "127.0.0.1", "--no-dashboard"]
    kinds = {
        "scheduler": ["--port", "0"],
        "worker": ["--nworkers", "2", "--nthreads", "1", "--local-directory", str(folder)],
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{kind}", *words, *quiet],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        for kind, words in kinds.items()
    ]
    try:
        while not place.exists() or not place.read_text():
            time.sleep(0.05)
        yield json.loads(place.read_text())["address"]
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


async def _both_workers(address: str) -> None:
    from distributed import Client

    async with Client(address, asynchronous=True) as client:
        await client.wait_for_workers(2, timeout=60)


def fleet(effort: Effort) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(store=f"sqlite:///{folder}/store.db")
        asyncio.run(_fill(settings))
        rows = [_jobs(settings, effort)]
        if find_spec("distributed") is not None:
            rows.append(_dask(settings, Path(folder), effort))
        return rows


def _jobs(settings: Settings, effort: Effort) -> Row:
    async def one(store: Store) -> Workers:
        return Inline(store, Check())

    async def two(store: Store) -> Workers:
        return Processes(AuthorityOpener(settings), Check(), 2)

    sides = [_side("one", settings, one, PASSES), _side("two", settings, two, PASSES)]
    what = f"audit of {COUNT * PASSES:,} of 64x64 in SQLite: one job / two jobs"
    return ratio("audit-jobs", what, *interleave(sides, effort), sense=">=", goal=1.7, digits=2)


def _dask(settings: Settings, folder: Path, effort: Effort) -> Row:
    async def two(store: Store) -> Workers:
        return Processes(AuthorityOpener(settings), Check(), 2)

    with _cluster(folder) as address:
        asyncio.run(_both_workers(address))

        async def dask(store: Store) -> Workers:
            return await Dask.connect(address, RemoteOpener.of(settings), Check())

        sides = [_side("Dask", settings, dask, DASK_PASSES), _side("two", settings, two, DASK_PASSES)]
        what = f"audit of {COUNT * DASK_PASSES:,} of 64x64 in SQLite: Dask with two workers / two jobs"
        return ratio("audit-dask", what, *interleave(sides, effort), sense="<=", goal=1.15, digits=2)

"""Whole audits by the command: against the commit before, against the bare driver, and as a namespace grows.

`audit-before` wants another checkout of somactl, with a .venv of its own, in SOMACTL_BENCH_BEFORE; without it
there is no such row.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import asyncpg
from matrices import density
from measure import BIN, Effort, Row, Side, command, interleave, peak_bytes, ratio
from stores import VERDICT, postgres_server, redis_server

from somactl.config import Settings
from somactl.core.envelope import serialize_matrix
from somactl.core.framing import peek
from somactl.core.portions import batched
from somactl.runtime import open_store
from somactl.store.contract import CommitMetadata

SOMACTL = str(BIN / "somactl")
COUNT, PAGE = 20_000, 480
"""Matrices of 64 x 64 in the hermitian layout, 16.8 KB each; the bare driver fetches pages of 8 MB."""
BEFORE = "SOMACTL_BENCH_BEFORE"
UNCHANGED = 100_000
RUNS = 5


def environment(url: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SOMACTL_")}
    return {**kept, "SOMACTL_STORE": url}


def fill(url: str, count: int = COUNT, n: int = 64) -> list[str]:
    """Commit so many matrices; returns their keys."""
    keys = [f"acme:({number}.0, 14.0, 43.0):data" for number in range(count)]
    matrices = [density(n, seed=seed) for seed in range(16)]

    async def commit() -> None:
        async with open_store(Settings(store=url)) as store:
            await store.init()
            for start, some in enumerate(batched(keys, 1000)):
                values = {
                    key: serialize_matrix(matrices[place % 16], key=key, timestamp=0.0)
                    for place, key in enumerate(some)
                }
                verdicts = {peek(data).content: VERDICT for data in values.values()}
                await store.commit_matrix_update(
                    values, CommitMetadata(verdicts=verdicts), commit_id=f"fill-{start}"
                )

    asyncio.run(commit())
    return keys


@contextmanager
def sqlite(count: int, n: int) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/store.db"
        fill(url, count, n)
        yield url


def audit(name: str, url: str, *words: str, somactl: str = SOMACTL) -> Side:
    argv = [somactl, "verify-psd", "--all", *words, "--output", "json"]
    return command(name, argv, environment(url))


def before(effort: Effort) -> list[Row]:
    other = os.environ.get(BEFORE)
    if other is None:
        return []
    with sqlite(COUNT, 64) as url:
        old = audit("before", url, somactl=str(Path(other) / ".venv/bin/somactl"))
        was, now = interleave([old, audit("now", url)], _few(effort))
    measure = f"`verify-psd --all`, {COUNT} of 64x64 in SQLite: the commit before / now"
    detail = f"{was.median:.1f} s, {now.median:.2f} s"
    return [ratio("audit-before", measure, was, now, sense=">=", goal=10.0, digits=1, detail=detail)]


def postgres(effort: Effort) -> list[Row]:
    with postgres_server() as server:
        url = server.create_database()
        fill(url)

        async def read() -> None:
            connection = await asyncpg.connect(url)
            last, fetched = -1, 0
            while rows := await connection.fetch(
                "SELECT id, data FROM somactl.payload WHERE id > $1 ORDER BY id LIMIT $2", last, PAGE
            ):
                last, fetched = rows[-1]["id"], fetched + len(rows)
            await connection.close()
            assert fetched == COUNT

        return [_against("postgres", url, "asyncpg", lambda: asyncio.run(read()), effort)]


def redis(effort: Effort) -> list[Row]:
    with redis_server() as server:
        keys = fill(server.url)

        def read() -> None:
            with closing(server.client()) as client:
                for page in batched(keys, PAGE):
                    assert None not in client.mget([f"somactl:{{default}}:live:{key}" for key in page])

        return [_against("redis", server.url, "MGET", read, effort)]


def _against(store: str, url: str, driver: str, read: Callable[[], None], effort: Effort) -> Row:
    """The whole command, its start included, against reading the same bytes with the bare driver."""

    def seconds(_threads: int) -> float:
        start = time.perf_counter()
        read()
        return time.perf_counter() - start

    sides = [audit("audit", url, "--no-ledger"), Side(driver, seconds, threaded=False)]
    ours, bare = interleave(sides, _few(effort))
    measure = f"`verify-psd --all`, {COUNT} of 64x64 in {store} / reading the same bytes with the bare driver"
    detail = f"{ours.median:.2f} s, {bare.median:.2f} s"
    return ratio(f"audit-{store}", measure, ours, bare, sense="<=", goal=2.0, digits=2, detail=detail)


def incremental(_effort: Effort) -> list[Row]:
    """The second run over a namespace where nothing changed: seconds, from the process's start to its end."""
    with sqlite(UNCHANGED, 8) as url:
        first = audit("first", url).seconds(1)
        second = audit("second", url, "--incremental")
        times = [second.seconds(1) for _ in range(RUNS)]
    measure = f"`verify-psd --all --incremental`, {UNCHANGED} unchanged in SQLite, nothing read again"
    return [
        Row(
            "audit-incremental",
            measure,
            statistics.median(times),
            min(times),
            max(times),
            "<=",
            2.0,
            digits=2,
            unit=" s",
            detail=f"the first run took {first:.1f} s",
        )
    ]


def memory(_effort: Effort) -> list[Row]:
    """Peak memory of the process that audits alone, and of one that has workers, as the namespace grows."""
    sizes = (10_000, 100_000)
    peaks: dict[str, list[float]] = {"1": [], "2": []}
    for count in sizes:
        with sqlite(count, 16) as url:
            for jobs, found in peaks.items():
                argv = [SOMACTL, "verify-psd", "--all", "--jobs", jobs, "--output", "json"]
                found.append(statistics.median(peak_bytes(argv, environment(url)) for _ in range(3)))
    worst = max(peaks.values(), key=lambda found: found[1] / found[0])
    each = [found[1] / found[0] for found in peaks.values()]
    return [
        Row(
            "audit-memory",
            f"peak memory of `verify-psd --all`, {sizes[1]} keys / {sizes[0]} keys, one job or two",
            worst[1] / worst[0],
            min(each),
            max(each),
            "<=",
            1.05,
            digits=3,
            detail=", ".join(f"--jobs {jobs}: {found[1] / 2**20:.0f} MiB" for jobs, found in peaks.items()),
        )
    ]


def _few(effort: Effort) -> Effort:
    """Whole commands take seconds: a handful of rounds."""
    return Effort(seconds=effort.seconds * 5, least=3, most=7)

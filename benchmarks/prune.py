"""Pruning 10,000 keys as one atomic commit, against the same keys deleted plainly through the same driver.

One function a store, one group a function. Both sides lie on one server
with the settings that an operator would choose (see `stores.py`), and hold the same keys and bytes. What a
round deletes is put back before the next one, which is not timed.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import asyncpg
from matrices import density
from measure import Effort, Row, Side, interleave, ratio
from stores import VERDICT, plain_postgres, plain_redis, postgres_server, redis_server

from somactl.core.envelope import serialize_matrix
from somactl.core.framing import peek
from somactl.store.contract import CommitMetadata, Store
from somactl.store.postgres import PostgresStore
from somactl.store.redis import RedisStore

KEYS = [f"acme:(9.0, 14.0, {number}.0):rho" for number in range(10_000)]
"""Named as the old service names them."""
ORDER = [KEYS[number * 7919 % len(KEYS)] for number in range(len(KEYS))]
"""As a ranking would have them: no two neighbours stand together."""
_AT_ONCE = 500


def envelopes(keys: Sequence[str] = KEYS, n: int = 64) -> dict[str, bytes]:
    """For each key the same rho, some 16.8 KB where it is packed: the layout that `auto` chooses."""
    matrix = density(n)
    return {key: serialize_matrix(matrix, key=key, kind="rho", timestamp=0.0) for key in keys}


class Prunes:
    """A store that is filled, and then emptied by one commit that expects each key at its version."""

    def __init__(self, store: Store, values: Mapping[str, bytes]) -> None:
        self._store = store
        self._values = values
        self._verdicts = {peek(data).content: VERDICT for data in values.values()}
        self._number = 0
        self._versions: dict[str, int] = {}

    def _id(self) -> str:
        self._number += 1
        return f"bench-{self._number}"

    async def fill(self) -> None:
        metadata = CommitMetadata(verdicts=self._verdicts)
        for start in range(0, len(KEYS), _AT_ONCE):
            some = {key: self._values[key] for key in KEYS[start : start + _AT_ONCE]}
            receipt = await self._store.commit_matrix_update(some, metadata, commit_id=self._id())
            self._versions |= dict.fromkeys(receipt.keys, receipt.version)

    async def prune(self, order: Sequence[str] = ORDER) -> None:
        expected = {key: self._versions[key] for key in order}
        metadata = CommitMetadata(command="prune", idempotency_key="0" * 32, grace=86_400.0)
        receipt = await self._store.commit_matrix_update(
            dict.fromkeys(order), metadata, expected, commit_id=self._id()
        )
        if receipt.noops:
            raise RuntimeError(f"{len(receipt.noops)} keys were not there")


def restored(
    name: str,
    runner: asyncio.Runner,
    fill: Callable[[], Awaitable[object]],
    call: Callable[[], Awaitable[object]],
) -> Side:
    """A side that awaits `fill`, untimed, and then `call`."""

    async def run() -> float:
        await fill()
        start = time.perf_counter()
        await call()
        return time.perf_counter() - start

    return Side(name, lambda _threads: runner.run(run()), threaded=False)


def few_rounds(effort: Effort) -> Effort:
    """Filling takes most of the time, so the rounds are counted, not timed."""
    return Effort(0.0, effort.least, effort.most)


def postgres(effort: Effort) -> list[Row]:
    """A bare DELETE of the same keys from a table of keys and values is the other side."""
    values = envelopes()
    with postgres_server() as server, asyncio.Runner() as runner:
        url = server.create_database()
        store = PostgresStore(url)
        runner.run(store.init())
        plain = runner.run(plain_postgres(url))
        admin = {**server.admin(), "database": url.rpartition("/")[2]}
        prunes = Prunes(store, values)
        ours, bare = interleave(
            [
                restored("prune", runner, lambda: _fill_postgres(admin, prunes.fill), prunes.prune),
                restored(
                    "DELETE",
                    runner,
                    lambda: _fill_postgres(admin, lambda: _fill_plain(plain, values)),
                    lambda: plain.execute("DELETE FROM plain WHERE key = ANY($1)", ORDER),
                ),
            ],
            few_rounds(effort),
        )
        runner.run(plain.close())
        runner.run(store.close())
    return [
        ratio(
            "prune-postgres",
            "Postgres prune of 10,000 rho, n = 64, in one commit with expectations / bare DELETE of them",
            ours,
            bare,
            sense="<=",
            goal=3.0,
            digits=2,
            detail=f"{1000 * ours.median:.0f} ms",
        )
    ]


async def _fill_postgres(admin: Mapping[str, Any], fill: Callable[[], Awaitable[object]]) -> None:
    """Tables are left as autovacuum leaves them, and no checkpoint falls into a round."""
    await fill()
    connection = await asyncpg.connect(**admin)
    try:
        await connection.execute("VACUUM ANALYZE")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def _fill_plain(plain: asyncpg.Connection[Any], values: Mapping[str, bytes]) -> None:
    await plain.executemany("INSERT INTO plain VALUES ($1, $2)", values.items())


DEFAULT_BATCH = 2000
"""What `somactl prune` deletes at once where more is ordered than one commit may hold."""


def redis(effort: Effort) -> list[Row]:
    """A bare UNLINK through redis-py is the other side; beside both, how long others had to wait."""
    values = envelopes()
    slowlog = {"slowlog-log-slower-than": "1000", "slowlog-max-len": "128"}
    with redis_server(**slowlog) as server, asyncio.Runner() as runner, server.client() as raw:
        store = RedisStore(server.url)
        plain = plain_redis(server.url)
        prunes = Prunes(store, values)

        async def fill_store() -> None:
            raw.flushdb()
            await store.init()
            await prunes.fill()
            raw.slowlog_reset()

        def fill_plain() -> None:
            raw.flushdb()
            for start in range(0, len(KEYS), _AT_ONCE):
                raw.mset({key: values[key] for key in KEYS[start : start + _AT_ONCE]})

        async def again() -> None:
            await asyncio.to_thread(fill_plain)

        blocked: dict[int, list[float]] = {len(ORDER): [], DEFAULT_BATCH: []}
        waited: dict[int, list[float]] = {count: [] for count in blocked}

        async def prune() -> None:
            await prunes.prune()
            blocked[len(ORDER)].append(_longest(raw))

        ours, bare = interleave(
            [
                restored("prune", runner, fill_store, prune),
                restored("UNLINK", runner, again, lambda: plain.unlink(*ORDER)),
            ],
            few_rounds(effort),
        )
        for count in blocked:
            for _ in range(few_rounds(effort).least):
                runner.run(fill_store())
                with Pinger(server.url) as pinger:
                    runner.run(prunes.prune(ORDER[:count]))
                blocked[count].append(_longest(raw))
                waited[count].append(pinger.worst)
        runner.run(plain.aclose())
        runner.run(store.close())
    whole, batch = (_blocked(count, blocked[count], waited[count]) for count in blocked)
    return [
        ratio(
            "prune-redis",
            "Redis prune of 10,000 rho, n = 64, in one commit with expectations / bare UNLINK of them",
            ours,
            bare,
            sense="<=",
            goal=6.0,
            digits=2,
            detail=f"{1000 * ours.median:.0f} ms",
        ),
        Row("prune-redis-blocked", "the same: how long it keeps Redis from all others", *whole),
        Row("prune-redis-batch", "the same for a batch of 2,000", *batch),
    ]


def _longest(raw: Any) -> float:
    """The longest script since the slow log was reset, in seconds: no other client was served meanwhile."""
    scripts = (e["duration"] for e in raw.slowlog_get(128) if e["command"].upper().startswith(b"EVAL"))
    return max(scripts, default=0.0) / 1e6


def _blocked(count: int, scripts: Sequence[float], waits: Sequence[float]) -> tuple[Any, ...]:
    """The rest of a row in milliseconds, from the longest scripts and the worst waits of its rounds."""
    figures = [1000 * seconds for seconds in scripts]
    detail = f"another client waited up to {1000 * statistics.median(waits):.0f} ms"
    goal = 60.0 if count == len(ORDER) else 15.0
    return statistics.median(figures), min(figures), max(figures), "<=", goal, 1, " ms", detail


_PING = """
import sys, time, redis
raw = redis.Redis.from_url(sys.argv[1])
raw.ping()
print(flush=True)
worst = 0.0
ended = False
while not ended:
    start = time.perf_counter()
    ended = raw.exists("the end")
    worst = max(worst, time.perf_counter() - start)
print(worst)
"""


class Pinger:
    """Another process that asks the server a small thing without pause; `worst` of its waits, in seconds."""

    worst = 0.0

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> Pinger:
        argv = [sys.executable, "-c", _PING, self._url]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._process.stdout.readline()
        return self

    def __exit__(self, *exception: object) -> None:
        argv = [
            sys.executable,
            "-c",
            "import sys, redis; redis.Redis.from_url(sys.argv[1]).set('the end', 1)",
        ]
        subprocess.run([*argv, self._url], check=True)
        self.worst = float(self._process.communicate()[0])

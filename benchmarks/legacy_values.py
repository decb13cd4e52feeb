"""The old service's JSON into envelopes: the two parsers, the whole migration, and the memory that it takes.

The whole migration is the operation that the command awaits, from a table `kv_store` on Postgres into
Postgres with Redis before it. Against it stand bare drivers that read the same rows in the same portions,
and write the same envelopes, which they find ready made, to a table and to Redis. Every round of either
fills a new database and an empty Redis.
"""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import asyncpg
import numpy as np
from matrices import density
from measure import Effort, Row, Side, interleave, local, peak_bytes, ratio
from numpy.typing import NDArray
from startup import SOMACTL, store_environment
from stores import plain_postgres, plain_redis, postgres_server, redis_server

from somactl.core.envelope import serialize_matrix
from somactl.core.invariants import check
from somactl.core.legacy_json import parse_matrix
from somactl.legacy.copying import copy
from somactl.legacy.request import MigrationContext, MigrationRequest
from somactl.legacy.source.contract import FETCH_BYTES
from somactl.legacy.source.postgres import PostgresSource
from somactl.operations.jobs.pace import Pace
from somactl.store.hybrid import HybridStore
from somactl.store.postgres import PostgresStore
from somactl.store.redis.cache import RedisCache

VALUES = 5_000
N = 64
MEMORY_VALUES = (2_500, 10_000)
CACHE_TTL = 300
TABLE = "CREATE TABLE kv_store (key text PRIMARY KEY, value jsonb NOT NULL)"
READ = "SELECT key, value::text FROM kv_store WHERE key = ANY($1) ORDER BY key"
INSERT = "INSERT INTO plain VALUES ($1, $2)"


def numpy_form(matrix: NDArray[Any]) -> str:
    """As the old service wrote it; Postgres reorders the keys."""
    return json.dumps(
        {
            "__np__": True,
            "data": base64.b64encode(matrix.tobytes()).decode(),
            "dtype": matrix.dtype.name,
            "shape": matrix.shape,
        }
    )


def key_of(number: int) -> str:
    return f"acme:rho:{number:06d}"


# The two parsers.


def lists(effort: Effort) -> list[Row]:
    """All sides end with the same float64 array; ours has also made sure that the text is strict JSON."""
    data = json.dumps(density(1024).tolist()).encode()

    def proved() -> None:
        if not check(parse_matrix(data)).valid:
            raise RuntimeError("no density matrix, hence nothing to compare")

    plain, ours, all_of_it = interleave(
        [
            _side("json", lambda: np.array(json.loads(data))),
            _parser(data, np.array(json.loads(data))),
            local("parse_matrix and check", lambda _: proved()),
        ],
        effort,
    )
    against = "vs `json.loads` + `np.array`"
    return [
        ratio(
            "json-lists",
            f"nested lists, n = 1024, to a verified float64 array {against}",
            plain,
            ours,
            sense=">=",
            goal=10.0,
        ),
        ratio("json-lists-proved", f"the same and its invariants proved {against}", plain, all_of_it),
    ]


def numpy_forms(effort: Effort) -> list[Row]:
    data = numpy_form(density(1024)).encode()

    def theirs() -> NDArray[Any]:
        value = json.loads(data)
        raw = base64.b64decode(value["data"])
        return np.frombuffer(raw, dtype=value["dtype"]).reshape(value["shape"])

    plain, ours = interleave([_side("json", theirs), _parser(data, theirs())], effort)
    return [
        ratio(
            "json-base64",
            "the base64 form, n = 1024, to a verified float64 array vs `json.loads` + `base64.b64decode`",
            plain,
            ours,
            sense=">=",
            goal=15.0,
        )
    ]


def _side(name: str, run: Callable[[], object]) -> Side:
    return local(name, lambda _: run(), threaded=False)


def _parser(data: bytes, expected: NDArray[Any]) -> Side:
    if parse_matrix(data).tobytes() != expected.tobytes():
        raise RuntimeError("not the same bits, hence nothing to compare")
    return local("parse_matrix", lambda _: parse_matrix(data), inner=4, threaded=False)


# The whole migration.


class Migrations:
    """One source, and ways to bring it elsewhere. `values` rho of n = 64, no two alike."""

    def __init__(self, postgres: Any, redis: Any, values: int) -> None:
        self._postgres = postgres
        self._redis = redis
        matrices = {key_of(number): density(N, seed=number) for number in range(values)}
        self.source = _filled(postgres, {key: numpy_form(matrix) for key, matrix in matrices.items()})
        self.envelopes = {
            key: serialize_matrix(matrix, key=key, kind="rho", timestamp=0.0)
            for key, matrix in matrices.items()
        }

    async def ours(self) -> float:
        """Seconds of the operation; its report must be that of a migration of everything."""
        # With patience: a cache that is passed over because it is late would make a round faster.
        cache = RedisCache(self._redis.url, ttl=CACHE_TTL, timeout=2.0)
        store = HybridStore(PostgresStore(await self._new_database()), cache)
        await store.init()
        source = PostgresSource(self.source)
        start = time.perf_counter()
        report = await copy(MigrationContext(source, store, MigrationRequest(), Pace()))
        elapsed = time.perf_counter() - start
        if report.code or report.outcomes["migrate"].count != len(self.envelopes) or store.degradations:
            raise RuntimeError(f"not everything was migrated: {report.outcomes}, {store.degradations}")
        await source.close()
        await store.close()
        return elapsed

    async def bare(self) -> float:
        """Seconds for the keys, then portion by portion the rows, an INSERT and a SET of each envelope."""
        target = await plain_postgres(await self._new_database())
        source = await asyncpg.connect(self.source)
        cache = plain_redis(self._redis.url)
        await cache.ping()
        start = time.perf_counter()
        for portion in _portions(
            [row[0] for row in await source.fetch("SELECT key FROM kv_store ORDER BY 1")]
        ):
            rows = await source.fetch(READ, portion)
            pairs = [(row[0], self.envelopes[row[0]]) for row in rows]
            async with target.transaction():
                await target.executemany(INSERT, pairs)
            pipeline = cache.pipeline(transaction=False)
            for key, data in pairs:
                pipeline.set(key, data, ex=CACHE_TTL)
            await pipeline.execute()
        elapsed = time.perf_counter() - start
        await asyncio.gather(target.close(), source.close(), cache.aclose())
        return elapsed

    async def _new_database(self) -> str:
        """Nothing of an earlier round is left, and no checkpoint falls into this one."""
        with self._redis.client() as raw:
            raw.flushall()
        url = await asyncio.to_thread(self._postgres.create_database)
        await asyncio.to_thread(self._postgres.run, "CHECKPOINT")
        return str(url)


def _portions(keys: Sequence[str]) -> Iterator[list[str]]:
    """As many keys at a time as the source brings values of this size."""
    size = len(numpy_form(density(N)))
    step = FETCH_BYTES // size
    for start in range(0, len(keys), step):
        yield list(keys[start : start + step])


def _filled(postgres: Any, values: dict[str, str]) -> str:
    url = str(postgres.create_database())

    async def fill() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(TABLE)
        await connection.executemany("INSERT INTO kv_store VALUES ($1, $2)", list(values.items()))
        await connection.execute("VACUUM ANALYZE kv_store")
        await connection.close()

    asyncio.run(fill())
    return url


def _awaiting(name: str, runner: asyncio.Runner, seconds: Callable[[], Awaitable[float]]) -> Side:
    async def run() -> float:
        return await seconds()

    return Side(name, lambda _threads: runner.run(run()), threaded=False)


def whole(effort: Effort) -> list[Row]:
    with redis_server() as redis, postgres_server() as postgres, asyncio.Runner() as runner:
        each = Migrations(postgres, redis, VALUES)
        # A round takes seconds, so that the rounds are counted, not timed.
        ours, bare = interleave(
            [_awaiting("migrate-json", runner, each.ours), _awaiting("bare drivers", runner, each.bare)],
            Effort(0.0, effort.least, effort.most),
        )
    rates = f"{VALUES / ours.median:,.0f}/s and {VALUES / bare.median:,.0f}/s"
    return [
        ratio(
            "migrate",
            f"migrating {VALUES:,} rho, n = {N}, from Postgres to Postgres with Redis / the same bytes read "
            "and written with bare drivers: rate",
            bare,
            ours,
            sense=">=",
            goal=0.5,
            digits=2,
            detail=rates,
        )
    ]


# The memory that it takes.


def memory(effort: Effort) -> list[Row]:
    """Peaks of whole `migrate-json` processes, each from a table of its own into a new database."""
    peaks: dict[int, list[int]] = {values: [] for values in MEMORY_VALUES}
    with redis_server() as redis, postgres_server() as postgres:
        sources = {values: Migrations(postgres, redis, values).source for values in MEMORY_VALUES}
        for _ in range(max(3, effort.least // 2)):
            for values, source in sources.items():
                peaks[values].append(_peak_of_a_run(postgres, redis, source))
    few, many = (statistics.median(peaks[values]) for values in MEMORY_VALUES)
    each = [b / a for a, b in zip(*peaks.values(), strict=True)]
    detail = ", ".join(
        f"{values:,}: {statistics.median(found) / 2**20:.0f} MiB" for values, found in peaks.items()
    )
    return [
        Row(
            "migrate-memory",
            f"peak memory of `migrate-json`, n = {N}: {MEMORY_VALUES[1]:,} rho / {MEMORY_VALUES[0]:,} rho",
            many / few,
            min(each),
            max(each),
            "<=",
            1.1,
            2,
            detail=f"{detail}, difference {(many - few) / 2**20:+.0f} MiB",
        )
    ]


def _peak_of_a_run(postgres: Any, redis: Any, source: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        env = {
            **store_environment(folder),
            "SOMACTL_STORE": postgres.create_database(),
            "SOMACTL_CACHE": redis.url,
            "LEGACY_URL": source,
        }
        subprocess.run([SOMACTL, "init"], env=env, check=True, capture_output=True)
        return peak_bytes([SOMACTL, "migrate-json", "env:LEGACY_URL", "--quiet"], env)

"""Pruning 10,000 keys as one atomic commit, against the same keys deleted plainly through the same driver.

One function a store, one group a function: `postgres` here, others beside it. Both sides lie on one server
with the settings that an operator would choose (see `stores.py`), and hold the same keys and bytes. What a
round deletes is put back before the next one, which is not timed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import asyncpg
from matrices import density
from measure import Effort, Row, Side, interleave, ratio
from stores import VERDICT, plain_postgres, postgres_server

from somactl.core.envelope import serialize_matrix
from somactl.core.framing import peek
from somactl.store.contract import CommitMetadata, Store
from somactl.store.postgres import PostgresStore

KEYS = [f"acme:(9.0, 14.0, {number}.0):rho" for number in range(10_000)]
"""Keys as the old service names them, in an order as an order would have them: no two neighbours together."""
ORDER = [KEYS[number * 7919 % len(KEYS)] for number in range(len(KEYS))]
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

    async def prune(self) -> None:
        expected = {key: self._versions[key] for key in ORDER}
        metadata = CommitMetadata(command="prune", stands_for="0" * 32, grace=86_400.0)
        receipt = await self._store.commit_matrix_update(
            dict.fromkeys(ORDER), metadata, expected, commit_id=self._id()
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

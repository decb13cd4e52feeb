"""Migrations as the tests see them: what they read, where they write, their runs, and what came of them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import asyncpg
import msgspec
import numpy as np

from faults.migration_process import Order
from servers import watchdog
from servers.postgres import PostgresServer
from servers.redis import RedisServer
from somactl.config import Settings
from somactl.legacy.journal import Journal, State, recorded
from somactl.legacy.request import MigrationRequest, Selection
from somactl.legacy.source.postgres import PostgresSource
from somactl.legacy.source.redis import RedisSource
from somactl.runtime import open_store
from somactl.store.contract import Store
from support.legacy_values import numpy_form

NAMESPACE = "legacy"
SECONDS = 60.0
BATCH = 16
COPY = ("migrate-json", "env:LEGACY")
WHEN_AND_WHERE = ("started_at", "ended_at", "address", "incarnation")
FOLLOW_UPS = ("finalize", "revert", "forget")
REQUEST = MigrationRequest(selection=Selection(discover=True))


def density(dice: np.random.Generator, n: int = 4) -> np.ndarray:
    factor = dice.standard_normal((n, n))
    rho = factor @ factor.T
    rho = (rho + rho.T) / 2
    return rho / np.trace(rho)


def legacy_values(count: int = 160, seed: int = 4) -> dict[str, bytes]:
    """Key -> JSON: whole and embedded matrices, rejected ones, values without any, and two collisions.

    `fam` and `gam` hold matrices whose targets are keys themselves, which come batches later.
    """
    dice = np.random.default_rng(seed)
    values: dict[str, Any] = {}
    for number in range(count):
        rho = density(dice)
        values[f"key:{number:04d}"] = [
            lambda rho=rho: numpy_form(rho),
            lambda rho=rho: rho.tolist(),
            lambda rho=rho, number=number: {
                "text": f"memory {number}",
                "rho": numpy_form(rho),
                "weight": 0.5,
            },
            lambda number=number: {"text": f"memory {number}", "coordinate": [number, 1.0]},
            lambda rho=rho: json.dumps(rho.tolist()),
            lambda rho=rho: {**numpy_form(rho), "shape": [7, 7]},
            lambda: [[1.5, 0.0], [0.0, -0.5]],
            lambda number=number: f"note {number}",
            lambda rho=rho: {"a": {"rho": rho.tolist()}, "b": [numpy_form(rho), "and words"]},
        ][number % 9]()
    for name, same in (("fam", False), ("gam", True)):
        first = density(dice)
        values[name] = {"rho": numpy_form(first)}
        values |= {f"{name}!{number:03d}": density(dice).tolist() for number in range(BATCH + 2)}
        values[f"{name}#/rho"] = numpy_form(first if same else density(dice))
    return {key: json.dumps(value).encode() for key, value in values.items()}


class LegacyRedis:
    """The old service's values in a Redis."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.url = server.url

    def load(self, values: Mapping[str, bytes]) -> None:
        with self.server.client() as raw:
            raw.flushdb()
            raw.mset(dict(values))

    def all(self) -> dict[str, bytes]:
        with self.server.client() as raw:
            names = sorted(raw.scan_iter(count=1000))
            return {name.decode(): raw.get(name) for name in names}


class LegacyPostgres:
    """The old service's values in a table of a new database."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.database = server.create_database()
        self.url = self.database + "?table=kv_store"
        self._run("CREATE TABLE kv_store (key text PRIMARY KEY, value jsonb NOT NULL)")

    def _run(self, statement: str, *arguments: Sequence[str]) -> list[Any]:
        async def run() -> list[Any]:
            connection = await asyncpg.connect(self.database)
            try:
                return list(await connection.fetch(statement, *arguments))
            finally:
                await connection.close()

        return in_another_loop(run)

    def load(self, values: Mapping[str, bytes]) -> None:
        self._run("TRUNCATE kv_store")
        self._run(
            "INSERT INTO kv_store SELECT k, v::jsonb FROM unnest($1::text[], $2::text[]) AS t(k, v)",
            list(values),
            [value.decode() for value in values.values()],
        )

    def all(self) -> dict[str, bytes]:
        rows = self._run("SELECT key, value::text AS value FROM kv_store")
        return {row["key"]: row["value"].encode() for row in rows}


Legacy = LegacyRedis | LegacyPostgres


def in_another_loop(work: Callable[[], Any]) -> Any:
    """The result of a coroutine, where a loop may run already."""
    import threading

    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(work())))
    thread.start()
    thread.join()
    return found[0]


@dataclass
class Target:
    """One store to migrate into; `cache` "" for none. Its clients try again for `retry_seconds`."""

    url: str
    cache: str = ""
    retry_seconds: float = 5.0

    @property
    def environment(self) -> dict[str, str]:
        cache = {"SOMACTL_CACHE": self.cache, "SFM_RHO_READ_TIMEOUT_MS": "5000"} if self.cache else {}
        return {
            "SOMACTL_STORE": self.url,
            "SOMACTL_NAMESPACE": NAMESPACE,
            "SOMACTL_RETRY_SECONDS": str(self.retry_seconds),
            **cache,
        }

    @asynccontextmanager
    async def store(self) -> AsyncIterator[Store]:
        async with open_store(Settings(store=self.url, namespace=NAMESPACE)) as store:
            yield store

    async def init(self) -> Self:
        async with self.store() as store:
            await store.init()
        return self


@dataclass
class Outcome:
    """What is in a store after a migration: contents, and what the journal says of each value.

    rows of a page, but its commit id; `plain` sums up the values without a matrix
    """

    contents: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    plain: dict[str, tuple[int, int]] = field(default_factory=dict)
    values: int = 0


async def live(store: Store) -> dict[str, str]:
    """Key -> content digest of every live value, each of which is read and verified."""
    found: dict[str, str] = {}
    async for page in store.scan():
        snapshot = await store.read_many([stat.key for stat in page])
        assert not snapshot.corrupt
        assert not snapshot.absent
        found |= {stat.key: stat.content for stat in page}
    return found


async def outcome(target: Target) -> Outcome:
    async with target.store() as store:
        found = Outcome(await live(store))
        journal = await the_journal(store)
        async for page in journal.pages(1):
            found.values += page.values
            found.rows += [msgspec.to_builtins(row) for row in page.rows]
            for reason, tally in page.plain.items():
                count, size = found.plain.get(reason, (0, 0))
                found.plain[reason] = (count + tally.count, size + tally.json_bytes)
        return found


async def the_journal(store: Store) -> Journal:
    """Of the one migration that the store knows."""
    (known,) = await recorded(store)
    return await Journal.open(store, known.migration)


async def state(target: Target) -> State | None:
    """Where the migration is; None where it has not written anything."""
    async with target.store() as store:
        return (await the_journal(store)).state if await recorded(store) else None


def migration_id(source: str) -> str:
    """The id of the migration of that URL."""
    kind = RedisSource if source.startswith("redis") else PostgresSource
    return REQUEST.id_for(kind(source).identity, NAMESPACE)


class Running:
    """One run, under way or over."""

    def __init__(self, pid: int, folder: Path) -> None:
        self.pid = pid
        self._folder = folder

    def _text(self, name: str) -> str:
        path = self._folder / name
        return path.read_text() if path.exists() else ""

    @property
    def steps(self) -> list[tuple[str, float]]:
        """What it did so far, each with its time."""
        lines = [
            line.rpartition(" ") for line in self._text("steps").splitlines(keepends=True) if "\n" in line
        ]
        return [(step, float(moment)) for step, _, moment in lines]

    @property
    def code(self) -> int | None:
        """None where it did not come to its end."""
        return int(self._text("ended").split()[0]) if self._text("ended") else None

    @property
    def peak_kib(self) -> int:
        return int(self._text("ended").split()[1])

    @property
    def report(self) -> dict[str, Any]:
        """What two runs tell alike: all but when and where."""
        report: dict[str, Any] = json.loads(self._text("out"))
        return {name: value for name, value in report.items() if name not in WHEN_AND_WHERE}

    @property
    def err(self) -> str:
        return self._text("err")

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9; return when it is gone."""
        watchdog.send(self.pid, signal.SIGKILL)
        watchdog.wait_until_gone([self.pid])

    def wait(self) -> Self:
        """Return when it has ended in whatever way."""
        self._until(lambda: not os.path.exists(f"/proc/{self.pid}"), "did not end")
        return self

    def wait_for(self, step: str) -> None:
        """Return when it has told of that step, or has ended."""
        self._until(
            lambda: f"{step} " in self._text("steps") or not os.path.exists(f"/proc/{self.pid}"),
            f"did not come to {step!r}",
        )

    def wait_until_stopped(self) -> None:
        """Return when it lies still, by a SIGSTOP that it sent itself."""
        self._until(lambda: self._process_state() == "T", "did not stop")

    def _process_state(self) -> str:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def _until(self, true: Callable[[], bool], defect: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not true():
            if time.monotonic() > deadline:
                raise AssertionError(f"a run {defect}: {self.steps[-3:]}, {self.err}")
            time.sleep(0.001)


class Runs:
    """Starts runs, from a process that has imported all they need."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.migration_process"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._count = 0

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def start(
        self,
        source: str,
        target: Target,
        *words: str,
        signals: Mapping[str, signal.Signals] | None = None,
        batch_values: int = BATCH,
    ) -> Running:
        """With `words`: those of a follow-up, or of a run that looks for matrices everywhere."""
        folder = self._folder / f"run-{self._count}"
        folder.mkdir()
        self._count += 1
        environment = {**target.environment, "LEGACY": source, "PATH": os.environ["PATH"]}
        numbers = {step: int(number) for step, number in (signals or {}).items()}
        if words[:1] and words[0] in FOLLOW_UPS:
            words = ("migration", words[0], migration_id(source), *words[1:])
        else:
            words = (*COPY, *([] if "--apply" in words else ["--discover"]), *words)
        order = Order([*words, "--output", "json"], environment, str(folder), batch_values, numbers)
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(order).decode() + "\n")
        self._process.stdin.flush()
        return Running(int(self._line()), folder)

    def run(self, source: str, target: Target, *words: str, **options: Any) -> Running:
        """A run that has ended."""
        return self.start(source, target, *words, **options).wait()

    def __enter__(self) -> Self:
        assert self._line() == "ready"
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate(timeout=SECONDS)  # no more orders: it ends, and its children with it


@dataclass(frozen=True)
class Undisturbed:
    """A migration that was not killed."""

    outcome: Outcome
    report: dict[str, Any]
    steps: list[str]
    seconds_of_a_step: float


class Ground:
    """Sources that hold the same values, and as many targets as are asked for.

    Each target comes empty, under the same namespace: content digests of two can be compared. Of Redis there
    is one, emptied each time.
    """

    def __init__(
        self, folder: Path, runs: Runs, postgres: PostgresServer, redis: RedisServer, old_redis: RedisServer
    ) -> None:
        self.runs = runs
        self.values = legacy_values()
        self.sources: dict[str, Legacy] = {
            "redis": LegacyRedis(old_redis),
            "postgres": LegacyPostgres(postgres),
        }
        self._folder = folder
        self._postgres = postgres
        self._redis = redis
        self._count = 0
        self._undisturbed: dict[tuple[str, str], Undisturbed] = {}

    def reset(self) -> None:
        for source in self.sources.values():
            source.load(self.values)

    async def target(self, kind: str) -> Target:
        if kind == "sqlite":
            self._count += 1
            return await Target(f"sqlite:///{self._folder}/target-{self._count}.db").init()
        if kind in ("redis", "hybrid"):
            with self._redis.client() as raw:
                raw.flushdb()
        if kind == "redis":
            return await Target(self._redis.url).init()
        return await Target(
            self._postgres.create_database(), self._redis.url if kind == "hybrid" else ""
        ).init()

    async def undisturbed(self, kind: str, source: str) -> Undisturbed:
        """How it ends where nothing happens on the way. The source must hold what it held at first."""
        if (kind, source) not in self._undisturbed:
            target = await self.target(kind)
            run = self.runs.run(self.sources[source].url, target)
            assert run.code == 3, run.err  # some values are rejected
            names = [step for step, _ in run.steps]
            seconds = run.steps[-1][1] - run.steps[0][1]
            found = Undisturbed(await outcome(target), run.report, names, seconds / len(names))
            self._undisturbed[kind, source] = found
        return self._undisturbed[kind, source]

    def clone(self, target: Target) -> Target:
        """Another SQLite file that holds the same."""
        self._count += 1
        copy = f"{self._folder}/target-{self._count}.db"
        path = target.url.removeprefix("sqlite:///")
        for suffix in ("", "-wal"):
            if os.path.exists(path + suffix):
                shutil.copy(path + suffix, copy + suffix)
        return Target(f"sqlite:///{copy}")


async def originals(target: Target) -> dict[str, bytes]:
    """Key -> bytes of what the store keeps for a revert."""
    async with target.store() as store:
        journal = await the_journal(store)
        return {bytes.fromhex(kept.key).decode(): kept.data async for kept in journal.originals()}


def lost(before: Mapping[str, bytes], *places: Mapping[str, bytes]) -> list[str]:
    """Keys of `before` whose bytes are in none of `places`."""
    return [key for key, data in before.items() if all(place.get(key) != data for place in places)]

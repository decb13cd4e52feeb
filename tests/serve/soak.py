"""A service under load on servers of its own, and what is done to them: see test_soak.py."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np

from servers.postgres import PostgresServer
from servers.redis import RedisServer
from support.forkserver import ForkServer
from support.serve_process import ServeProcess
from support.soak_judge import Answer, Excused, Red, failures, false_greens, unseen
from support.soak_load import Costs, Health, Load, children
from support.violation import put_copy, put_violation
from tests.cli.conftest import environment

PATIENCE = 120.0
"""Seconds that a condition is waited for at most."""
TOKEN = "reader-0123456789abcdef"
KEYS = ("alpha", "beta", "gamma")
HAND_OVER = """
import fcntl, os, sys
given = [fcntl.fcntl(int(each), fcntl.F_DUPFD, 64) for each in sys.argv[1].split(",")]
os.closerange(3, 64)
for number, each in enumerate(given):
    os.dup2(each, 3 + number)
    os.close(each)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""As systemd hands over sockets: from descriptor 3 on, and no other."""


class Soak:
    """Postgres with a cache before it, a service that watches both, its clients, and an operator.

    interval  of the service's rounds
    found     all that is held against it
    """

    def __init__(self, postgres: PostgresServer, redis: RedisServer, folder: Path, interval: float) -> None:
        self.postgres, self.redis, self.folder, self.interval = postgres, redis, folder, interval
        self.store, self.cache = postgres.create_database(), redis.url
        self._env = environment() | {"SOMACTL_STORE": self.store, "SOMACTL_CACHE": self.cache}
        self._somactl = ForkServer(self._env)
        self._sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.tokens = folder / "tokens"
        self.tokens.touch(0o600)
        self.write_tokens()
        http, grpc = (each.getsockname()[1] for each in self._sockets)
        self.load = Load(http, grpc, TOKEN, KEYS[0])
        self.costs = Costs()
        self.reds: list[Red] = []
        self.excused: list[Excused] = []
        self.found: list[str] = []
        self.serving: ServeProcess

    # --- the service

    def write_tokens(self, text: str = "") -> None:
        """Replace the file, which keeps the clients' token whatever else it says."""
        new = self.tokens.with_suffix(".new")
        new.touch(0o600)
        new.write_text(f"client read {TOKEN}\n{text}")
        new.replace(self.tokens)

    async def prepare(self) -> None:
        await self.run("init")
        for key in KEYS:
            np.save(self.folder / f"{key}.npy", np.eye(4) / 4)
            await self.run("commit", f"{key}={key}.npy")

    def serve(self) -> ServeProcess:
        """Another process on the same sockets."""
        descriptors = [each.fileno() for each in self._sockets]
        return ServeProcess(
            self.folder,
            *("--grpc", "127.0.0.1:1", "--interval", f"{1000 * self.interval:.0f}ms"),
            *("--tokens", str(self.tokens), "--grace", "60s"),
            env={
                "SOMACTL_STORE": self.store,
                "SOMACTL_CACHE": self.cache,
                "LISTEN_FDS": "2",
                "LISTEN_FDNAMES": "http:grpc",
            },
            through=(sys.executable, "-S", "-c", HAND_OVER, ",".join(map(str, descriptors))),
            pass_fds=descriptors,
        )

    def close(self) -> None:
        """From now on the services alone hold their sockets."""
        for each in self._sockets:
            each.close()

    def prover(self) -> int:
        """The number of its process."""
        (pid,) = children(self.serving.process.pid)
        return pid

    async def watch_costs(self, every: float) -> None:
        while True:
            self.costs.look(self.serving.process.pid)
            await asyncio.sleep(every)

    # --- an operator

    async def run(self, *words: str, codes: tuple[int, ...] = (0,), cache: bool = True) -> tuple[int, bytes]:
        """The exit code of a command, and its report."""
        env = self._env if cache else {**self._env, "SOMACTL_CACHE": ""}
        words = (*words, "-o", "json")
        code, out, err = await asyncio.to_thread(
            self._somactl.run, words, cwd=self.folder, env=env, stdin=b""
        )
        assert code in codes, (words, code, err.decode())
        return code, out

    async def warm(self, *options: str) -> None:
        """Again where the cache takes no copies yet: on a busy machine others may be slow to say which
        incarnation it serves."""
        async with asyncio.timeout(PATIENCE):
            while (await self.run("cache-warm", *options, codes=(0, 3, 13)))[0] == 13:
                pass

    async def version(self, key: str) -> str:
        _, out = await self.run("show", key, cache=False)
        return str(json.loads(out)["key"]["version"])

    async def sql(self, statement: str) -> None:
        await asyncio.to_thread(self.postgres.run, statement, self.store.rpartition("/")[2])

    async def until(self, holds: Callable[[Health], Any], what: str) -> None:
        """Return once a client is told what holds."""
        self.load.health = None
        try:
            async with asyncio.timeout(PATIENCE):
                while self.load.health is None or not holds(self.load.health):
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"never {what}: {self.load.health} {self.serving.raw[-4000:]!r}") from None

    async def until_reason(self, cause: str, service: str | None = None) -> None:
        def holds(health: Health) -> bool:
            return any(each.cause == cause and service in (None, each.service) for each in health.reasons)

        await self.until(holds, cause)

    async def until_well(self) -> None:
        await self.until(lambda health: health.ok and not health.degraded, "well")

    async def event(self, name: str, **facts: Any) -> None:
        await asyncio.to_thread(self.serving.event, name, **facts)

    # --- what is judged

    async def undergo(self, fault: Callable[[Soak], Coroutine[Any, Any, None]]) -> float:
        """Do it to a service that is well, wait until that is well again, and judge what clients were told.

        Returns how long it took.
        """
        began = time.monotonic()
        await fault(self)
        await self.until_well()
        self.judge(fault.__name__)
        return time.monotonic() - began

    def judge(self, what: str) -> None:
        answers: list[Answer] = list(self.load.answers)
        self.load.answers.clear()
        found = [
            *false_greens(answers, self.reds, self.interval),
            *unseen(answers, self.reds),
            *failures(answers, self.excused),
        ]
        self.found += [f"{what}: {each}" for each in found[:10]]
        self.reds.clear()
        self.excused.clear()


# --- faults: each ends with its repair


async def a_prover_that_is_killed(soak: Soak) -> None:
    assert soak.load.health is not None
    before = soak.load.health.prover.restarts
    os.kill(soak.prover(), signal.SIGKILL)
    await soak.until(lambda health: health.prover.restarts > before, "told that the prover ended")
    await soak.until(lambda health: health.prover.state == "running", "told that the prover runs again")


async def a_prover_that_is_stopped(soak: Soak) -> None:
    """For so long that it shows; it goes on before it is given up."""
    pid = soak.prover()
    os.kill(pid, signal.SIGSTOP)
    try:
        await soak.until(lambda health: (health.rho.oldest_seconds or 0) > 4 * soak.interval, "old")
    finally:
        os.kill(pid, signal.SIGCONT)


async def a_prover_that_hangs(soak: Soak) -> None:
    """Stopped for good."""
    assert soak.load.health is not None
    before = soak.load.health.prover.restarts
    os.kill(soak.prover(), signal.SIGSTOP)
    await soak.until(lambda health: health.prover.restarts > before, "told that the prover hangs")


async def a_violation(soak: Soak) -> None:
    before = await soak.version("alpha")
    await asyncio.to_thread(put_violation, soak.store, "alpha")
    await _mend(soak, Red("a violation", time.monotonic(), 0.0), before)


async def a_violation_as_the_prover_is_killed(soak: Soak) -> None:
    """No prover looks when it comes: the next one finds it, and what is called good meanwhile is older."""
    before = await soak.version("alpha")
    os.kill(soak.prover(), signal.SIGKILL)
    await asyncio.to_thread(put_violation, soak.store, "alpha")
    await _mend(soak, Red("a violation unseen", time.monotonic(), 0.0, in_time=False), before)


async def _mend(soak: Soak, red: Red, version: str) -> None:
    await soak.until_reason("violated", "postgres")
    await _a_round(soak)
    red.until = time.monotonic()
    soak.reds.append(red)
    await soak.run("restore", "alpha", "--version", version, codes=(0, 4))  # 4: the cache was slow
    await soak.warm("--reconcile")


async def _a_round(soak: Soak) -> None:
    """Return once the answers tell of a round that has ended meanwhile."""
    began = time.monotonic()
    await soak.until(lambda health: (health.rho.oldest_seconds or 0) < time.monotonic() - began, "read again")


async def a_violated_copy(soak: Soak) -> None:
    """The ages in answers are those of the authority's values."""
    await asyncio.to_thread(put_copy, soak.store, soak.cache, "beta")
    red = Red("a violated copy", time.monotonic(), 0.0, by_age=False)
    await soak.until_reason("violated", "cache")
    await _a_round(soak)
    red.until = time.monotonic()
    soak.reds.append(red)
    await soak.warm("--reconcile")


async def a_namespace_that_is_lost_and_found(soak: Soak) -> None:
    began = time.monotonic()
    await soak.sql("UPDATE somactl.namespace SET name = 'lost' WHERE name = 'default'")
    red = Red("a lost namespace", time.monotonic(), 0.0, by_age=False)
    await soak.until_reason("namespace-gone")
    red.until = time.monotonic()
    soak.reds.append(red)
    await soak.sql("UPDATE somactl.namespace SET name = 'default' WHERE name = 'lost'")
    soak.excused.append(Excused(404, began, time.monotonic()))


async def a_namespace_that_is_made_anew(soak: Soak) -> None:
    """As a restore of the store does that the cache was not told of."""
    await soak.run("init", "--new-incarnation", cache=False)
    await soak.until_reason("cache-differs")
    await soak.warm("--reconcile")


async def a_cache_that_is_restarted(soak: Soak) -> None:
    """It comes back empty; reads go to the authority all the while."""
    await asyncio.to_thread(soak.redis.stop)
    try:
        await soak.until_reason("cache-away")
    finally:
        await asyncio.to_thread(soak.redis.start)
    await soak.warm()


async def a_cache_that_is_paused(soak: Soak) -> None:
    await asyncio.to_thread(soak.redis.pause)
    try:
        await soak.until_reason("cache-away")
    finally:
        await asyncio.to_thread(soak.redis.resume)


async def an_authority_that_is_restarted(soak: Soak) -> None:
    began = time.monotonic()
    await asyncio.to_thread(soak.postgres.stop)
    try:
        await soak.until_reason("authority-away")
    finally:
        await asyncio.to_thread(soak.postgres.start)
    await soak.until_well()
    soak.excused.append(Excused(503, began, time.monotonic()))


async def an_authority_that_is_paused(soak: Soak) -> None:
    began = time.monotonic()
    await asyncio.to_thread(soak.postgres.pause)
    try:
        await soak.until_reason("authority-away")
    finally:
        await asyncio.to_thread(soak.postgres.resume)
    await soak.until_well()
    soak.excused.append(Excused(503, began, time.monotonic()))


async def tokens_that_are_reloaded(soak: Soak) -> None:
    """A valid file, one that is broken, which changes nothing, and a valid one."""
    for text, event in (
        ("other read other-0123456789abcdef\n", "reloaded"),
        ("what is this\n", "not reloaded"),
        ("", "reloaded"),
    ):
        soak.serving.lines.clear()
        soak.write_tokens(text)
        soak.serving.process.send_signal(signal.SIGHUP)
        await soak.event(event)


FAULTS = (
    a_violation,
    a_cache_that_is_restarted,
    a_prover_that_is_killed,
    an_authority_that_is_paused,
    tokens_that_are_reloaded,
    a_violated_copy,
    a_prover_that_is_stopped,
    an_authority_that_is_restarted,
    a_violation_as_the_prover_is_killed,
    a_cache_that_is_paused,
    a_namespace_that_is_lost_and_found,
    a_namespace_that_is_made_anew,
)

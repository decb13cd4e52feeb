"""A prover on real servers: what is done to them behind its back, health says, and says when it is over."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from servers.postgres import PostgresServer
from servers.redis import RedisServer
from somactl.config import Settings
from support.forkserver import ForkServer
from support.proving import Proving, named, proving
from support.slow import SlowLink
from support.violation import put_copy, put_violation
from tests.cli.conftest import environment

pytestmark = pytest.mark.asyncio(loop_scope="module")

RUNBOOK = Path(__file__).parents[2] / "RUNBOOKS" / "RHO_VIOLATION.md"
KEYS = ("alpha", "beta", "gamma")


class House:
    """Postgres with a cache before it, one prover that watches both, and an operator's command line."""

    def __init__(self, postgres: PostgresServer, redis: RedisServer, link: SlowLink, folder: Path) -> None:
        self.postgres, self.redis, self.link, self.folder = postgres, redis, link, folder
        self.store = postgres.create_database()
        self.cache = f"redis://127.0.0.1:{redis.port}/0"
        # The prover goes through a link that a test can slow down; operators and writers do not.
        self.settings = Settings(store=self.store, cache=f"redis://127.0.0.1:{link.port}/0")
        self.watch: Proving
        self._env = environment() | {"SOMACTL_STORE": self.store, "SOMACTL_CACHE": self.cache}
        self._somactl = ForkServer(self._env)

    async def run(
        self, *words: str, codes: tuple[int, ...] = (0,), cache: bool = True, dark: bool = False
    ) -> None:
        """A command of an operator."""
        env = self._env | ({} if cache else {"SOMACTL_CACHE": ""}) | ({"SFM_DARK_MODE": "1"} if dark else {})
        code, _, err = await asyncio.to_thread(self._somactl.run, words, cwd=self.folder, env=env, stdin=b"")
        assert code in codes, err.decode()

    async def runbook(self, line: str, codes: tuple[int, ...] = (0,), **names: str) -> None:
        """A command of the runbook, as it stands there but for its `names`."""
        assert re.search(rf"^ *{re.escape(line)}$", RUNBOOK.read_text(), re.MULTILINE), line
        _, *words = line.split()
        await self.run(*(names.get(word, word) for word in words), codes=codes)

    async def sql(self, statement: str) -> None:
        database = self.store.rpartition("/")[2]
        await asyncio.to_thread(self.postgres.run, statement, database)

    async def version(self, key: str) -> str:
        health = self.watch.state.keys("default")
        return str(next(each.version for each in health if each.key == key))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PostgresServer, RedisServer]]:
    """Servers of this module's own, which it stops and pauses."""
    folder = tmp_path_factory.mktemp("prover")
    with PostgresServer(folder / "postgres") as postgres, RedisServer(folder / "redis") as redis:
        yield postgres, redis


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(
    servers: tuple[PostgresServer, RedisServer], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with SlowLink(servers[1].port) as link:
        house = House(*servers, link, tmp_path_factory.mktemp("operator"))
        await house.run("init")
        for number, key in enumerate(KEYS):
            np.save(house.folder / f"{key}.npy", np.diag([0.5, 0.25, 0.25]) if number else np.eye(4) / 4)
            await house.run("commit", f"{key}={key}.npy")
        async with proving(house.settings) as house.watch:
            yield house


@pytest_asyncio.fixture(loop_scope="module")
async def house(shared: House) -> House:
    """The house, in which all is well."""
    await shared.watch.until_well()
    return shared


async def test_all_is_well_and_its_numbers_are_told(house: House) -> None:
    health = house.watch.health
    rho = health.rho
    assert (rho.psd_ok, rho.watched, rho.proven, rho.sample_version) == (True, 3, 3, 3)
    assert rho.trace_error is not None
    assert rho.lambda_min_bound is not None
    assert rho.trace_error < 1e-8
    assert -1e-8 < rho.lambda_min_bound <= 0.25
    assert [(each.service, each.up) for each in health.services] == [("postgres", True), ("cache", True)]
    state = house.watch.state
    await house.watch.until(lambda _: state.extras("default").told and state.extras("default").reads_counted)
    extras = house.watch.state.extras("default")
    assert extras.told is not None
    assert extras.told.counts is not None
    assert extras.told.ledger is not None
    assert extras.told.events is not None
    assert (extras.told.version, extras.told.counts.keys, extras.told.ledger.share_read) == (3, 3, 0.0)
    assert extras.reads_counted > 0
    await house.run("verify-psd", "--all")  # its ledger is seen once the extras are looked at again


async def test_a_violation_in_the_store(house: House) -> None:
    """Committed past all checks by a writer that knows of no cache, whose copy goes on being right."""
    before = await house.version("alpha")
    await asyncio.to_thread(put_violation, house.store, "alpha")
    reason = await house.watch.until_reason("violated", "postgres")
    health = house.watch.health
    assert (health.ok, health.rho.psd_ok, reason.key) == (False, False, "alpha")
    assert reason.runbook == "RUNBOOKS/RHO_VIOLATION.md"
    (finding,) = [each for each in health.rho.findings if each.outcome == "violated"]
    assert finding.last_good_at is not None
    assert finding.lambda_min_bound == pytest.approx(-0.1)
    assert not named(health, "violated", "cache")
    await house.runbook("somactl restore KEY --version N", KEY="alpha", N=before)
    await house.watch.until(lambda health: health.ok)
    await house.runbook("somactl cache-warm --reconcile", codes=(0, 3))
    await house.watch.until_well()


async def test_what_was_admitted_in_the_dark_says_so_in_both_stores(house: House) -> None:
    before = await house.version("gamma")
    np.save(house.folder / "bad.npy", np.diag([1.2, -0.2]))
    await house.run("commit", "gamma=bad.npy", dark=True)
    await house.watch.until_reason("violated", "postgres")
    await house.watch.until_reason("violated", "cache")
    found = house.watch.health.rho.findings
    assert {(each.store, each.outcome, each.dark) for each in found} == {
        ("postgres", "violated", True),
        ("cache", "violated", True),
    }
    assert {each.key for each in house.watch.state.keys("default") if each.dark} == {"gamma"}
    await house.runbook("somactl restore KEY --version N", KEY="gamma", N=before)
    await house.run("cache-warm", "--reconcile", codes=(0, 3))
    await house.watch.until_well()


async def test_bytes_that_were_changed_in_the_store(house: House) -> None:
    """The same version, which no listing tells from what it was."""
    before = await house.version("beta")
    await house.sql(
        "UPDATE somactl.payload SET data = set_byte(data, 60, 255 - get_byte(data, 60)) WHERE id = (SELECT "
        "id FROM somactl.revision WHERE key = 'beta' ORDER BY version DESC LIMIT 1)"
    )
    await house.watch.until_reason("violated", "postgres")
    (finding,) = house.watch.health.rho.findings
    assert (finding.key, finding.outcome, str(finding.version)) == ("beta", "corrupt", "None")
    await house.run("commit", "beta=beta.npy")
    await house.watch.until_well()
    assert await house.version("beta") > before


async def test_a_violation_in_the_cache_alone(house: House) -> None:
    await asyncio.to_thread(put_copy, house.store, house.cache, "beta")
    reason = await house.watch.until_reason("violated", "cache")
    assert (house.watch.health.ok, reason.key) == (False, "beta")
    assert not named(house.watch.health, "violated", "postgres")
    await house.runbook("somactl cache-warm --reconcile", codes=(3,))
    await house.watch.until_well()


async def test_a_copy_that_was_never_committed(house: House) -> None:
    """It is a density matrix, and wrong."""
    await asyncio.to_thread(put_copy, house.store, house.cache, "gamma", (0.5, 0.5))
    reason = await house.watch.until_reason("cache-differs", "cache")
    assert (house.watch.health.ok, reason.fails, house.watch.health.rho.psd_ok) == (False, True, True)
    await house.runbook("somactl cache-warm --reconcile", codes=(3,))
    await house.watch.until_well()


async def test_a_violation_in_both(house: House) -> None:
    before = await house.version("gamma")
    await asyncio.to_thread(put_violation, house.store, "gamma", cache=house.cache)
    await house.watch.until_reason("violated", "postgres")
    await house.watch.until_reason("violated", "cache")
    await house.runbook("somactl restore KEY --version N", KEY="gamma", N=before)
    await house.runbook("somactl cache-warm --reconcile", codes=(0, 3))
    await house.watch.until_well()


async def test_a_violated_copy_of_a_key_that_the_store_does_not_have(house: House) -> None:
    await house.run("commit", "stray=alpha.npy")
    await house.watch.until(lambda health: health.rho.watched == 4)
    await asyncio.to_thread(put_copy, house.store, house.cache, "stray")
    await house.run("rm", "stray", cache=False)  # the cache is not told
    await house.watch.until(lambda health: health.rho.watched == 3)
    reason = await house.watch.until_reason("violated", "cache")
    assert reason.key == "stray"
    await house.runbook("somactl cache-warm --reconcile", codes=(3,))
    await house.watch.until_well()


@pytest.mark.parametrize("how", ["stopped", "paused"])
async def test_a_cache_that_does_not_answer(house: House, how: str) -> None:
    """The store goes on being proven, and a violation there is told."""
    server = house.redis
    await asyncio.to_thread(server.stop if how == "stopped" else server.pause)
    try:
        await house.watch.until_reason("cache-away", "cache")
        assert house.watch.health.ok
        before = await house.version("alpha")
        await asyncio.to_thread(put_violation, house.store, "alpha")
        await house.watch.until_reason("violated", "postgres")
        await house.run("restore", "alpha", "--version", before, cache=False)
        await house.watch.until(lambda health: health.ok)
    finally:
        await asyncio.to_thread(server.start if how == "stopped" else server.resume)
    await house.run("cache-warm", "--reconcile", codes=(0, 3))
    await house.watch.until_well()


async def test_a_cache_that_was_emptied(house: House) -> None:
    with house.redis.client() as raw:
        raw.flushall()
    reason = await house.watch.until_reason("cache-away", "cache")
    assert "emptied" in reason.message
    assert house.watch.health.ok
    await house.run("cache-warm")
    await house.watch.until_well()


async def test_a_cache_that_is_slow(house: House) -> None:
    house.link.delay = 0.2
    try:
        reason = await house.watch.until_reason("cache-away", "cache")
        assert "not within" in reason.message
        assert house.watch.health.ok
    finally:
        house.link.delay = 0.0
    await house.watch.until_well()


@pytest.mark.parametrize("how", ["stopped", "paused"])
async def test_a_store_that_does_not_answer(house: House, how: str) -> None:
    """The cache goes on being proven, and a violation there is told."""
    server = house.postgres
    await asyncio.to_thread(put_copy, house.store, house.cache, "beta", (0.5, 0.5))
    await house.watch.until_reason("cache-differs", "cache")
    await house.run("cache-warm", "--reconcile", codes=(3,))
    await house.watch.until_well()
    await asyncio.to_thread(server.stop if how == "stopped" else server.pause)
    try:
        await house.watch.until_reason("authority-away", "postgres")
        assert house.watch.health.ok
        with house.redis.client() as raw:
            damage(raw, "beta")
        reason = await house.watch.until_reason("violated", "cache")
        assert reason.key == "beta"
    finally:
        await asyncio.to_thread(server.start if how == "stopped" else server.resume)
    await house.run("cache-warm", "--reconcile", codes=(3,))
    await house.watch.until_well()


async def test_a_namespace_that_is_lost(house: House) -> None:
    await house.sql("UPDATE somactl.namespace SET name = 'lost' WHERE name = 'default'")
    reason = await house.watch.until_reason("namespace-gone", "postgres")
    assert (reason.fails, house.watch.health.rho.psd_ok) == (True, None)
    await house.sql("UPDATE somactl.namespace SET name = 'default' WHERE name = 'lost'")
    await house.watch.until_well()


async def test_a_new_incarnation(house: House) -> None:
    """A restore of the store that the cache was not told of: its copies are served no more."""
    before = house.watch.health.rho.incarnation
    await house.run("init", "--new-incarnation", cache=False)
    await house.watch.until(lambda health: health.rho.incarnation not in (None, before) and health.ok)
    reason = await house.watch.until_reason("cache-differs", "cache")
    assert not reason.fails
    await house.runbook("somactl cache-warm --reconcile", codes=(0, 3))
    await house.watch.until_well()


def damage(raw: Any, key: str) -> None:
    """Change a byte of a copy."""
    (name,) = [each for each in raw.keys("*") if each.decode().endswith(f":{key}")]
    data = bytearray(raw.hget(name, "envelope"))
    data[-1] ^= 1
    raw.hset(name, "envelope", bytes(data))


async def test_sqlite_alone(tmp_path: Path) -> None:
    settings = Settings(store=f"sqlite:///{tmp_path / 'store.db'}")
    await asyncio.to_thread(put_violation, settings.store, "bad")
    async with proving(settings) as watch:
        await watch.until_reason("violated", "sqlite")
        assert [each.service for each in watch.health.services] == ["sqlite"]


async def test_redis_as_the_store(house: House) -> None:
    """In a namespace of its own, beside another that is not there."""
    settings = Settings(store=house.cache, namespace="own")
    await house.run("init", "--store", settings.store, "--namespace", "own", cache=False)
    await asyncio.to_thread(put_violation, settings.store, "bad", namespace="own")
    async with proving(settings, namespaces=("own", "other")) as watch:
        await watch.until_reason("violated", "redis")
        health = await watch.until(lambda health: named(health, "namespace-gone", "redis"))
        assert (health.rho.namespace, health.namespaces["other"].rho.psd_ok) == ("own", None)

"""Reports say when they were made by the store's clock, and where the namespace was."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servers.postgres import PostgresServer
from servers.redis import RedisServer
from somactl.cli.app import run
from somactl.store.base import BaseStore
from somactl.store.postgres.store import PostgresStore
from somactl.store.redis.store import RedisStore
from somactl.store.sqlite import SqliteStore
from tests.cli.conftest import Shell, density

DAY = 86_400.0


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path, shell: Shell) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/a.db"
    elif request.param == "redis":
        with RedisServer(tmp_path / "redis") as server:
            yield server.url
    else:
        postgres: PostgresServer = request.getfixturevalue("postgres_server")
        yield (url := postgres.create_database())
        postgres.drop_database(url)


@pytest.fixture
def report(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Any:
    """The report of a run in this process."""
    monkeypatch.setenv("SOMACTL_STORE", store)
    monkeypatch.chdir(tmp_path)
    np.save("rho.npy", density(3))

    def report(*words: str) -> Any:
        capfdbinary.readouterr()
        run([*words, "--output", "json"])
        return json.loads(capfdbinary.readouterr().out)

    return report


def test_a_commit_learns_all_of_it_in_passing(report: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = report("init")
    began = time.time()

    async def refuse(store: BaseStore) -> None:
        raise AssertionError("a round trip more")

    for kind in (SqliteStore, RedisStore, PostgresStore):
        monkeypatch.setattr(kind, "head", refuse)
        monkeypatch.setattr(kind, "clock", refuse)
    told = report("commit", "a=rho.npy")
    assert told["ended_at"] == told["committed_at"]
    assert began - 1 < told["started_at"] <= told["ended_at"] < time.time() + 1
    assert (told["incarnation"], told["namespace_version"]) == (made["head"]["incarnation"], 1)


def test_a_look_asks_once_when_it_has_done_its_work(report: Any, store: str) -> None:
    report("init")
    committed = report("commit", "a=rho.npy")
    for words in (["ls"], ["show", "a"], ["verify-psd", "--all"], ["commit", "b=rho.npy", "--dry-run"]):
        told = report(*words)
        where = (told["incarnation"], told["namespace_version"], told["address"])
        assert where == (committed["incarnation"], 1, committed["address"])
        assert committed["ended_at"] <= told["started_at"] <= told["ended_at"]


def test_the_clock_is_the_server_s(report: Any, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if store.startswith("sqlite"):
        pytest.skip("a file has no other clock than this machine's")
    report("init")
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now + DAY)
        told = [report("commit", "a=rho.npy"), report("ls")]
    for each in told:
        assert abs(each["started_at"] - now) < DAY / 2
        assert abs(each["ended_at"] - now) < DAY / 2


def test_what_opens_no_store_says_nothing_of_it(report: Any) -> None:
    told = report("explain", "trace")
    assert (told["started_at"], told["ended_at"], told["namespace_version"]) == (None, None, None)

"""A Dask cluster proves what one process proves, and its failures are told at once, in one sentence."""

from __future__ import annotations

import asyncio
import gc
import logging
import pickle
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from somactl.config import Settings, load
from somactl.core.verdict import Tolerances
from somactl.errors import ConfigurationError, NamespaceNotFound, WorkerLost
from somactl.operations.audit import dask
from somactl.operations.audit.dask import Dask
from somactl.operations.audit.model import Check, Task
from somactl.operations.audit.workers import Inline
from somactl.runtime import RemoteOpener, open_store
from support.audited import fill, summed, tasks_of
from support.dask_cluster import DaskCluster
from support.openers import Opener

KEYS = [f"k{number:05}" for number in range(40)]
TASK = Task(KEYS, [0] * len(KEYS))
ADDRESS = "postgresql://auditor:hunter2@db.example/soma?sslmode=require"


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """What the client leaves behind is closed by the collector, and its loggers get their levels back."""
    levels = {name: logging.getLogger(name).level for name in logging.root.manager.loggerDict}
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    with DaskCluster(tmp_path_factory.mktemp("dask") / "cluster") as cluster:
        yield cluster


@pytest_asyncio.fixture
async def url(tmp_path: Path) -> str:
    """Of a database with forty keys."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    async with open_store(Settings(store=url)) as store:
        await fill(store, len(KEYS))
    return url


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask, "_ANSWER_SECONDS", 2.0)
    monkeypatch.setattr(dask, "_LOOK_SECONDS", 0.1)


async def test_a_cluster_finds_what_one_process_finds(cluster: DaskCluster, url: str) -> None:
    check = Check(Tolerances(psd=1e-9), every=True)
    tasks = tasks_of([*KEYS, "absent"], 3)
    async with open_store(Settings(store=url)) as store:
        alone = summed([await prove for prove in map(Inline(store, check).prove, tasks)])
    workers = await Dask.connect(cluster.address, RemoteOpener.of(Settings(store=url)), check)
    assert workers.count in (2, 4)  # the second worker may still be on its way
    assert workers.task_bytes == 0
    assert summed(await asyncio.gather(*map(workers.prove, tasks))) == alone
    assert workers.task_bytes > 0
    assert (await workers.prove(Task([], []))).valid == 0
    await workers.close()


async def test_an_error_of_the_store_is_raised_as_it_is(cluster: DaskCluster, tmp_path: Path) -> None:
    opener = RemoteOpener.of(Settings(store=f"sqlite:///{tmp_path / 'none.db'}"))
    workers = await Dask.connect(cluster.address, opener, Check())
    with pytest.raises(NamespaceNotFound, match="there is no database at") as caught:
        await workers.prove(TASK)
    assert caught.value.next
    await workers.close()


async def test_a_worker_with_another_version_is_told(
    cluster: DaskCluster, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask, "__version__", "0.0.1")
    workers = await Dask.connect(cluster.address, Opener(url), Check())
    with pytest.raises(ConfigurationError, match=r"has somactl .*, and this is 0\.0\.1"):
        await workers.prove(TASK)
    await workers.close()


async def test_a_password_stays_where_it_is(cluster: DaskCluster) -> None:
    """The workers' settings name another store, so that they cannot know the password of this one."""
    opener = RemoteOpener.of(Settings(store=ADDRESS))
    assert b"hunter2" not in pickle.dumps(opener)
    workers = await Dask.connect(cluster.address, opener, Check())
    with pytest.raises(ConfigurationError) as caught:
        await workers.prove(TASK)
    assert caught.value.message == (
        f"the worker on {socket.gethostname()} does not know the password of "
        "postgresql://auditor@db.example/soma, which is not sent: its settings name sqlite:///somactl.db"
    )
    assert "SOMACTL_STORE" in str(caught.value.hint)
    await workers.close()
    assert "hunter2" not in (cluster.folder / "log").read_text()


@pytest.mark.usefixtures("impatient")
async def test_a_worker_that_is_killed_and_then_the_last_one(tmp_path: Path, url: str, notes: Path) -> None:
    opener = Opener(url, KEYS[21], notes, deaths=1)
    with DaskCluster(tmp_path / "cluster") as cluster:
        workers = await Dask.connect(cluster.address, opener, Check())
        found = await asyncio.gather(*map(workers.prove, tasks_of(KEYS, 4)))
        assert sum(each.valid for each in found) == 37
        assert len(list(notes.iterdir())) == 2
        await workers.close()

        opener = Opener(url, KEYS[0], notes, deaths=99)
        workers = await Dask.connect(cluster.address, opener, Check())
        began = time.monotonic()
        with pytest.raises(WorkerLost, match=f"scheduler at {cluster.address} has had no worker for 2 s"):
            await workers.prove(TASK)
        assert time.monotonic() - began < 15
        await workers.close()
        with pytest.raises(WorkerLost, match="has had no worker for 2 s"):
            await Dask.connect(cluster.address, opener, Check())


@pytest.mark.usefixtures("impatient")
async def test_a_task_that_kills_its_workers_and_then_the_scheduler(
    tmp_path: Path, url: str, notes: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with DaskCluster(tmp_path / "cluster", allowed_failures=0) as cluster:
        workers = await Dask.connect(cluster.address, Opener(url, KEYS[21], notes, deaths=1), Check())
        with pytest.raises(WorkerLost) as caught:
            await workers.prove(TASK)
        assert caught.value.message == (
            "the Dask cluster lost a worker 1 times over the keys from 'k00000' to 'k00039'"
        )
        await workers.close()

        workers = await Dask.connect(cluster.address, Opener(url, KEYS[0], notes, hangs=True), Check())
        proving = asyncio.create_task(workers.prove(TASK))
        while len(list(notes.iterdir())) < 2:
            await asyncio.sleep(0.01)
        cluster.scheduler.kill()
        with pytest.raises(WorkerLost, match=f"scheduler at {cluster.address} is gone, or out of reach"):
            await asyncio.wait_for(proving, 10)
        await asyncio.wait_for(workers.close(), 10)
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("impatient")
async def test_a_scheduler_that_is_not_there(url: str) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{reserved.getsockname()[1]}"
        with pytest.raises(WorkerLost, match=f"no Dask scheduler answers at {address}"):
            await Dask.connect(address, Opener(url), Check())


async def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigurationError, match="'localhost:8786' is no address of a Dask scheduler"):
        await Dask.connect("localhost:8786", Opener(url), Check())


async def test_the_package_is_missing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigurationError) as caught:
        await Dask.connect("tcp://127.0.0.1:1", Opener(url), Check())
    assert caught.value.hint == "pip install 'somactl[distributed]'"


@pytest.mark.parametrize(
    ("asked", "own", "used"),
    [
        (
            ADDRESS,
            "postgres://auditor:other@DB.example:5432/soma",
            "postgres://auditor:other@DB.example:5432/soma",
        ),
        ("postgresql://auditor@db.example/soma", "", "postgresql://auditor@db.example/soma"),
        ("postgresql://a@h/d?sslmode=require", "postgresql://b@h/d", "postgresql://a@h/d?sslmode=require"),
        ("postgresql://a@h/d", "postgresql://a:pw@h/d?pool_size=2", "postgresql://a:pw@h/d?pool_size=2"),
        ("sqlite:///here.db", "", f"sqlite:///{Path.cwd()}/here.db"),
    ],
)
def test_which_address_a_worker_uses(asked: str, own: str, used: str) -> None:
    opener = RemoteOpener.of(Settings(store=asked, namespace="tenant", cache="redis://cache"))
    settings = opener._settings(load({}, {"SOMACTL_STORE": own, "SOMACTL_NAMESPACE": "another"}))
    assert (settings.store, settings.namespace) == (used, "tenant")

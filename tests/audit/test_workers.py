"""Worker processes: the same findings as in one process, also where one is killed or its store fails."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from somactl.config import Settings
from somactl.core.invariants import check
from somactl.errors import AccessDenied, NamespaceNotFound, SomactlError, StoreUnavailable, WorkerLost
from somactl.operations.audit.model import Check, Task
from somactl.operations.audit.workers import TRIES, Inline, Processes
from somactl.runtime import AuthorityOpener, open_store
from somactl.store.contract import Store
from somactl.suggestion import run
from support.audited import fill, summed, tasks_of
from support.openers import Opener

METHODS = ["fork", "spawn"]
SCRIPT = Path(__file__).with_name("worker_process.py")


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


@pytest_asyncio.fixture
async def url(tmp_path: Path) -> str:
    """Of a database with forty keys."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    async with open_store(Settings(store=url)) as store:
        await fill(store, 40)
    return url


KEYS = [f"k{number:05}" for number in range(40)]


async def prove_all(workers: Inline | Processes, tasks: list[Task]) -> tuple[object, ...]:
    try:
        return summed(await asyncio.gather(*(workers.prove(task) for task in tasks)))
    finally:
        await workers.close()


async def test_workers_find_what_one_process_finds(settings: Settings) -> None:
    async with open_store(settings) as store:
        await store.init()
        keys = await fill(store, 300)
        tasks = tasks_of([*keys[:100], "absent", *keys[100:]], 40)
        for each in (Check(), Check(every=True, spectrum=True)):
            alone = await prove_all(Inline(store, each), tasks)
            assert alone[0] == 297
            assert alone[3] == ["absent"]
            for method in METHODS if store.name == "sqlite" and not each.every else ["fork"]:
                workers = Processes(AuthorityOpener(settings), each, 3, method=method)
                assert await prove_all(workers, tasks) == alone


async def test_a_task_of_no_keys_needs_no_worker(url: str) -> None:
    workers = Processes(Opener(url), Check(), 2)
    assert (await workers.prove(Task([], []))).valid == 0
    assert not multiprocessing.active_children()
    await workers.close()


async def test_no_more_workers_are_made_than_there_is_work(url: str) -> None:
    workers = Processes(Opener(url), Check(), 4)
    await workers.prove(Task(KEYS, [0] * 40))
    await workers.prove(Task(KEYS, [0] * 40))
    assert len(multiprocessing.active_children()) == 1
    await workers.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("method", METHODS)
async def test_a_task_whose_worker_is_killed_is_done_again(url: str, notes: Path, method: str) -> None:
    alone = await prove_all(Processes(Opener(url), Check(), 1), tasks_of(KEYS, 4))
    workers = Processes(Opener(url, KEYS[21], notes, deaths=TRIES - 1), Check(), 2, method=method)
    assert await prove_all(workers, tasks_of(KEYS, 4)) == alone
    assert len(list(notes.iterdir())) == TRIES


async def test_a_task_that_keeps_killing_workers_is_named(url: str, notes: Path) -> None:
    """And no other one, though tasks waited behind it in the workers that died."""
    workers = Processes(Opener(url, KEYS[21], notes, deaths=99), Check(), 2)
    outcomes = await asyncio.gather(
        *(workers.prove(task) for task in tasks_of(KEYS, 4)), return_exceptions=True
    )
    (error,) = [each for each in outcomes if isinstance(each, BaseException)]
    assert isinstance(error, WorkerLost)
    assert str(error) == "a worker process was killed 3 times over the keys from 'k00020' to 'k00023'"
    assert error.facts == {"first_key": "k00020", "last_key": "k00023"}
    assert len(list(notes.iterdir())) == TRIES
    await workers.close()


@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailable("no route", hint="wait", next=run("doctor"), tried=3),
        NamespaceNotFound("there is none", next=run("init")),
        AccessDenied("refused"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_of_the_store_is_raised_as_it_is(url: str, notes: Path, error: SomactlError) -> None:
    workers = Processes(Opener(url, KEYS[0], notes, error=error), Check(), 2)
    with pytest.raises(type(error)) as caught:
        await workers.prove(Task(KEYS, [0] * 40))
    for name in ("message", "hint", "next", "facts"):
        assert getattr(caught.value, name) == getattr(error, name)
    assert (await workers.prove(Task(KEYS[1:], [0] * 39))).valid == 36  # the worker goes on
    await workers.close()


async def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    opener = AuthorityOpener(Settings(store=f"sqlite:///{tmp_path / 'none.db'}"))
    workers = Processes(opener, Check(), 2)
    with pytest.raises(NamespaceNotFound, match="there is no database"):
        await workers.prove(Task(["a"], [0]))
    await workers.close()


async def test_a_bug_tells_where_in_the_worker_it_is(url: str, notes: Path) -> None:
    workers = Processes(Opener(url, KEYS[0], notes, error=ZeroDivisionError("oh")), Check(), 2)
    with pytest.raises(ZeroDivisionError) as caught:
        await workers.prove(Task(KEYS, [0] * 40))
    assert "in read_many" in caught.value.__notes__[0]
    await workers.close()


@pytest.mark.parametrize("method", METHODS)
async def test_closing_gives_up_what_is_under_way(url: str, notes: Path, method: str) -> None:
    workers = Processes(Opener(url, KEYS[0], notes, hangs=True), Check(), 2, method=method)
    proving = asyncio.create_task(workers.prove(Task(KEYS, [0] * 40)))
    while not any(notes.iterdir()):
        await asyncio.sleep(0.01)
    proving.cancel()
    await asyncio.wait_for(workers.close(), 5)
    assert not multiprocessing.active_children()
    await asyncio.wait([proving])


async def test_a_worker_that_hangs_is_killed(url: str, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("somactl.operations.audit.workers.STUCK_SECONDS", 0.3)
    workers = Processes(Opener(url, KEYS[0], notes, hangs=True), Check(), 1)
    with pytest.raises(WorkerLost, match="was killed 3 times over the keys from 'k00000' to 'k00039'"):
        await asyncio.wait_for(workers.prove(Task(KEYS, [0] * 40)), 60)
    await workers.close()
    assert not multiprocessing.active_children()


async def test_what_a_cancelled_task_finds_is_dropped(url: str) -> None:
    workers = Processes(Opener(url), Check(), 1)
    first = asyncio.create_task(workers.prove(Task(KEYS, [0] * 40)))
    await asyncio.sleep(0)
    first.cancel()
    assert (await workers.prove(Task(KEYS[:5], [0] * 5))).valid == 5
    await workers.close()


async def test_no_password_is_shown() -> None:
    secret = "hunter2-in-the-url"
    opener = AuthorityOpener(
        Settings(store=f"postgresql://stranger:{secret}@127.0.0.1:1/none", retry_seconds=0)
    )
    for method in METHODS:
        workers = Processes(opener, Check(), 1, method=method)
        with pytest.raises(StoreUnavailable) as caught:
            await workers.prove(Task(["a"], [0]))
        (worker,) = multiprocessing.active_children()
        told = [str(caught.value), repr(caught.value), repr(vars(caught.value)), repr(opener), repr(worker)]
        told.append(Path(f"/proc/{worker.pid}/cmdline").read_text() if sys.platform == "linux" else "")
        assert not [text for text in told if secret in text]
        await workers.close()


async def test_a_worker_factors_after_its_parent_did(url: str, tmp_path: Path) -> None:
    """BLAS has threads that a fork does not copy, and locks that it does."""
    large = np.eye(1024) / 1024
    async with open_store(Settings(store=url)) as store:
        await fill_large(store)
        for _ in range(3):
            await asyncio.to_thread(check, large)
            workers = Processes(Opener(url), Check(), 2)
            tasks = [Task(["large-0"], [0]), Task(["large-1"], [0])]
            found = await asyncio.wait_for(asyncio.gather(*map(workers.prove, tasks)), 60)
            assert [each.valid for each in found] == [1, 1]
            await workers.close()


async def fill_large(store: Store) -> None:
    from somactl.testing.values import envelope, proof, write

    for number in range(2):
        data = envelope(f"large-{number}", kind="rho", n=1024)
        await write(store, {f"large-{number}": data}, verdicts=proof(data))


async def test_workers_share_the_processors(url: str) -> None:
    alone = await prove_blas(Processes(Opener(url), Check(every=True), 1))
    of_four = await prove_blas(Processes(Opener(url), Check(every=True), 4))
    assert of_four == max(1, alone // 4)


async def prove_blas(workers: Processes) -> int:
    """How many threads the BLAS of a worker may use, by its own words."""
    proven = await workers.prove(Task(KEYS, [0] * 40))
    await workers.close()
    return int(proven.blas.rpartition(", ")[2].split()[0])


class Auditor:
    """`worker_process.py` in a process group of its own. Its output ends when its last worker has ended."""

    def __init__(self, url: str, notes: Path, method: str, hangs: bool) -> None:
        words = [url, str(notes), method, "hangs" if hangs else "works"]
        tests = str(SCRIPT.parent.parent)
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "working\n"

    def ended(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=8)
        return self.process.returncode, out, err


@pytest.mark.parametrize("method", METHODS)
def test_workers_end_when_their_parent_is_killed(url: str, notes: Path, method: str) -> None:
    auditor = Auditor(url, notes, method, hangs=True)
    auditor.process.kill()
    code, out, err = auditor.ended()
    assert (code, out) == (-signal.SIGKILL, "")
    assert "Traceback" not in err


@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_reaches_the_whole_group(url: str, notes: Path, method: str) -> None:
    auditor = Auditor(url, notes, method, hangs=True)
    os.killpg(auditor.process.pid, signal.SIGINT)
    assert auditor.ended() == (130, "", "")


def test_a_group_that_is_told_to_terminate_finishes_what_its_parent_wants(url: str, notes: Path) -> None:
    """As systemd does it: the workers are told too, and their parent wants the outcomes of what was begun."""
    auditor = Auditor(url, notes, "fork", hangs=False)
    os.killpg(auditor.process.pid, signal.SIGTERM)
    assert auditor.ended() == (0, "8\n", "")

"""The prover as a process: however it ends, it is started again, health says so, and none is left behind."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from somactl.config import Settings
from somactl.serve.model import WatchOptions
from somactl.serve.state import State
from somactl.serve.supervisor import Pace, Supervisor, ending, environment
from support.proving import PATIENCE, Proving, named, proving
from support.violation import put_violation

QUICK = Pace(nice=0, silence=3.0, first_pause=0.05, longest_pause=0.2)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Those of a database with one matrix, which is wrong: so that each prover has something to find."""
    store = f"sqlite:///{tmp_path / 'store.db'}"
    put_violation(store, "bad")
    return Settings(store=store)


async def begun(watch: Proving) -> int:
    """The number of the prover's process, once it has told something."""
    await watch.until(lambda health: health.prover.state == "running")
    await watch.rounds(1)
    assert watch.supervisor.pid is not None
    return watch.supervisor.pid


async def restarted(watch: Proving, before: int, restarts: int = 1) -> str:
    """Why the prover ended, once another one runs in its place and has told something."""
    health = await watch.until(
        lambda health: health.prover.restarts == restarts and health.prover.state == "running"
    )
    assert "prover" in {each.cause for each in health.since_start}
    await watch.rounds(1)
    assert watch.supervisor.pid not in (None, before)
    assert not is_alive(before)
    assert health.prover.last_failure is not None
    return health.prover.last_failure


async def test_killed_and_killed_again(settings: Settings) -> None:
    async with proving(settings, pace=QUICK) as watch:
        await watch.until_reason("violated", "sqlite")
        pid = await begun(watch)
        os.kill(pid, signal.SIGKILL)
        await watch.until_reason("prover")
        assert named(watch.health, "violated", "sqlite")  # what was found stands
        assert "SIGKILL" in await restarted(watch, pid)
        pid = await begun(watch)
        os.kill(pid, signal.SIGSEGV)
        assert "SIGSEGV" in await restarted(watch, pid, 2)
        assert any("started again" in said for said in watch.said)
        assert not any(settings.store in said for said in watch.said)


async def test_stopped_for_good(settings: Settings) -> None:
    """SIGSTOP, as a machine does that swaps without end: it lives, and says nothing."""
    async with proving(settings, pace=QUICK) as watch:
        pid = await begun(watch)
        os.kill(pid, signal.SIGSTOP)
        assert "no sign of life" in await restarted(watch, pid)


async def test_out_of_memory(settings: Settings) -> None:
    """It may keep what it has, and gets no more; then there is a large matrix to prove."""
    async with proving(settings, pace=QUICK) as watch:
        pid = await begun(watch)
        limit = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize() + (20 << 20)
        resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))
        await asyncio.to_thread(put_violation, settings.store, "large", size=3000)
        assert await restarted(watch, pid) == "it ran out of memory"
        await watch.until(lambda health: health.rho.findings_total == 2)


async def test_an_old_result_of_a_prover_that_is_gone_ends_as_dead(tmp_path: Path) -> None:
    command = prover("print_lines(HELLO, LISTED, FOUND); time.sleep(600)")
    async with scripted(command, pace=QUICK, stale_after=1.0, dead_after=2.0) as watch:
        await watch.until(lambda health: health.ok)
        await watch.until_reason("stale")
        reason = await watch.until_reason("dead")
        assert (reason.fails, watch.health.ok) == (True, False)


# --- provers that a test has written

PREAMBLE = """
import json, os, sys, time
start = json.loads(sys.stdin.readline())
def print_lines(*lines):
    for line in lines:
        os.write(start["pipe"], (line if isinstance(line, str) else json.dumps(line)).encode() + b"\\n")
now = time.clock_gettime(time.CLOCK_BOOTTIME)
about = {"namespace": "default", "incarnation": "one"}
HELLO = {"type": "hello"}
LISTED = {"type": "listed", "at": now, "begin": True, "end": True, "new": ["a"], **about}
FOUND = {"type": "found", "store": "sqlite", "read_at": now, "proofs": [{"key": "a", "outcome": "valid"}],
         **about}
"""


def prover(script: str) -> Sequence[str]:
    return [sys.executable, "-S", "-c", PREAMBLE + script]


def scripted(command: Sequence[str], pace: Pace = QUICK, **options: float) -> Scripted:
    return Scripted(command, pace, options)


class Scripted:
    """A state that a program feeds."""

    def __init__(self, command: Sequence[str], pace: Pace, options: dict[str, float]) -> None:
        watch = WatchOptions(**options)  # type: ignore[arg-type]
        self._said: list[str] = []
        state = State(watch)
        supervisor = Supervisor(
            Settings(store="postgresql://user:secret@nowhere/db"),
            watch,
            state,
            pace=pace,
            command=command,
            log=lambda text, facts: self._said.append(f"{text} {facts}"),
        )
        self._proving = Proving(state, supervisor, self._said)

    async def __aenter__(self) -> Proving:
        self._proving.supervisor.start()
        return self._proving

    async def __aexit__(self, *exception: object) -> None:
        await self._proving.supervisor.stop(within=0.5)
        assert self._proving.supervisor.pid is None


@pytest.mark.parametrize(
    ("script", "failure"),
    [
        ("print_lines('what is this?'); time.sleep(600)", "it said what is no message"),
        ("print_lines(HELLO, 'x' * (3 << 20)); time.sleep(600)", "it said what is no message"),
        ("print_lines({**LISTED, 'namespace': 'x'}); time.sleep(600)", "it said what is no message"),
        ("print_lines({'type': 'found', 'store': 3}); time.sleep(600)", "it said what is no message"),
        ("print_lines({'type': 'unknown'}); time.sleep(600)", "it said what is no message"),
        ("sys.exit(5)", "it ended with exit code 5"),
        ("os._exit(77)", "it ran out of memory"),
        ("os.abort()", "it was killed by SIGABRT"),
        ("os.write(start['pipe'], b'{\"type\"'); sys.exit(3)", "it ended with exit code 3"),
    ],
)
async def test_a_prover_that_fails_at_once_is_given_up(script: str, failure: str) -> None:
    pace = Pace(nice=0, first_pause=0.01, longest_pause=0.05, attempts=3, given_up_pause=0.3)
    async with scripted(prover(script), pace) as watch:
        health = await watch.until(lambda health: health.prover.state == "given-up")
        assert (health.ok, health.prover.restarts, health.prover.last_failure) == (False, 3, failure)
        (reason,) = named(health, "prover")
        assert failure in reason.message
        await watch.until(lambda health: health.prover.restarts == 4)  # and yet tried, now and then
        assert not any("secret" in said for said in watch.said)


async def test_one_that_cannot_be_started_is_given_up() -> None:
    pace = Pace(first_pause=0.01, longest_pause=0.05, attempts=2, given_up_pause=600.0)
    async with scripted(["/nonexistent/program"], pace) as watch:
        health = await watch.until(lambda health: health.prover.state == "given-up")
        assert health.prover.last_failure == "it could not be started: No such file or directory"


async def test_without_descriptors_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, errors = os.pipe, iter([OSError(errno.EMFILE, os.strerror(errno.EMFILE))])

    def scarce() -> tuple[int, int]:
        for error in errors:
            raise error
        return pipe()

    monkeypatch.setattr("somactl.serve.supervisor.os.pipe", scarce)
    script = "print_lines(HELLO, LISTED, FOUND); time.sleep(600)"
    async with scripted(prover(script), Pace(first_pause=0.01)) as watch:
        health = await watch.until(lambda health: health.ok)
        assert health.prover.last_failure == "it could not be started: Too many open files"


async def test_a_bug_in_it_is_not_passed_over() -> None:
    def log(said: str, facts: object) -> None:
        raise ZeroDivisionError

    watch = WatchOptions()
    supervisor = Supervisor(Settings(), watch, State(watch), command=["/nonexistent/program"], log=log)
    supervisor.start()
    with pytest.raises(ZeroDivisionError):
        await supervisor.failed()


async def test_one_that_is_silent_from_the_start_is_restarted() -> None:
    async with scripted(prover("time.sleep(600)"), Pace(silence=0.3, first_pause=0.01)) as watch:
        health = await watch.until(lambda health: health.prover.restarts)
        assert health.prover.last_failure == "it gave no sign of life for 0.3 s"


async def test_one_that_lives_and_gets_nothing_done_is_restarted() -> None:
    beats = "print_lines(HELLO)\nwhile True: print_lines({'type': 'beat', 'progress': 7}); time.sleep(0.05)"
    async with scripted(prover(beats), Pace(silence=2.0, stuck=0.8, first_pause=0.01), interval=0.1) as watch:
        health = await watch.until(lambda health: health.prover.restarts)
        assert health.prover.last_failure == "it got nothing done for 0.9 s"


async def test_one_that_rests_between_two_rounds_is_left_alone() -> None:
    """An interval may be longer than what counts as being stuck."""
    beat = "print_lines({'type': 'beat', 'progress': 7}); time.sleep(0.05)"
    script = f"print_lines(HELLO)\nfor _ in range(15): {beat}\nsys.exit(5)"
    pace = Pace(silence=2.0, stuck=0.2, first_pause=0.01)
    async with scripted(prover(script), pace, interval=600.0) as watch:
        health = await watch.until(lambda health: health.prover.restarts)
        assert health.prover.last_failure == "it ended with exit code 5"


async def test_its_standard_error_is_kept_for_the_log_without_addresses() -> None:
    script = "print('because of', start['settings']['store'], file=sys.stderr); sys.exit(1)"
    async with scripted(prover(script)) as watch:
        await watch.until(lambda _: watch.said)
        assert "because of (address)" in watch.said[0]


async def test_settings_travel_on_standard_input_alone() -> None:
    """Arguments and the environment of a process are there for others to read."""
    async with scripted(prover("print_lines(HELLO); time.sleep(600)")) as watch:
        await watch.until(lambda health: health.prover.state == "running")
        for file in ("cmdline", "environ"):
            assert b"secret" not in Path(f"/proc/{watch.supervisor.pid}/{file}").read_bytes()


async def test_stopping_ends_it_gently_and_else_by_force() -> None:
    for script in ("print_lines(HELLO); sys.stdin.read()", "print_lines(HELLO); time.sleep(600)"):
        async with scripted(prover(script)) as watch:
            await watch.until(lambda health: health.prover.state == "running")
            pid = watch.supervisor.pid
            assert pid is not None
            began = time.monotonic()
            await watch.supervisor.stop(within=0.5 if "sleep" in script else PATIENCE)
            assert time.monotonic() - began < PATIENCE / 2
            assert not is_alive(pid)
            await watch.supervisor.stop()  # harmless when repeated


# --- the real one, as a process


async def test_it_yields_to_others_and_sees_little(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMACTL_STORE", "sqlite:///another.db")
    monkeypatch.setenv("AWS_SECRET", "none of its business")
    monkeypatch.setenv("PGSSLROOTCERT", "/root.pem")
    async with proving(settings, pace=Pace(nice=15)) as watch:
        pid = await begun(watch)
        assert os.getpriority(os.PRIO_PROCESS, pid) == 15
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
        names = {line.partition(b"=")[0] for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")}
        assert b"PGSSLROOTCERT" in names
        assert not names & {b"SOMACTL_STORE", b"AWS_SECRET"}
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)  # as a group's end may send: its own comes with standard input
        await watch.rounds(2)
        assert watch.supervisor.pid == pid
    assert not is_alive(pid)


def test_only_what_drivers_need_of_an_environment_is_kept() -> None:
    kept = environment(
        {"PATH": "/bin", "PGPASSFILE": "/p", "LC_ALL": "C", "SECRET": "x", "SOMACTL_STORE": "y"}
    )
    assert {**kept, **dict.fromkeys(kept, "")}.keys() == kept.keys()
    assert set(kept) - {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"} == {
        "PATH",
        "PGPASSFILE",
        "LC_ALL",
    }


def test_how_a_prover_ended_in_words() -> None:
    assert "where memory runs out" in ending(-signal.SIGKILL)
    assert ending(-250) == "it was killed by signal 250"


PARENT = """
import asyncio, sys
from somactl.config import Settings
from somactl.serve.model import WatchOptions
from somactl.serve.state import State
from somactl.serve.supervisor import Pace, Supervisor

async def main():
    options = WatchOptions(interval=0.3)
    state = State(options)
    supervisor = Supervisor(Settings(store=sys.argv[1]), options, state, pace=Pace(nice=0))
    supervisor.start()
    while state.health().rho.psd_ok is None:
        await asyncio.sleep(0.02)
    heavy = {"numpy", "scipy"} & {name.partition(".")[0] for name in sys.modules}
    print(supervisor.pid, sorted(heavy), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("stopped", [False, True], ids=["alive", "stopped"])
def test_it_ends_when_its_parent_is_killed(settings: Settings, stopped: bool) -> None:
    """Also where it is stopped itself, and hears nothing. And its parent never needed what it needs."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, settings.store], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid, _, heavy = parent.stdout.readline().strip().partition(" ")
        assert heavy == "[]"
        if stopped:
            os.kill(int(pid), signal.SIGSTOP)
        parent.kill()
    deadline = time.monotonic() + PATIENCE
    while is_alive(int(pid)):
        assert time.monotonic() < deadline, "it outlived its parent"
        time.sleep(0.02)

"""Hooks: what they are given, how they end, and that none of it becomes the verdict."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path

import pytest

from somactl.operations.canary.hooks import occasion_of, run_hook, words_of
from somactl.report import CanaryHook

VERDICT = json.dumps({"outcome": "FAIL", "padding": "x" * 200_000}).encode()


async def hook(program: str, *, seconds: float = 60.0) -> CanaryHook:
    return await run_hook("fail", shlex.join([sys.executable, "-c", program]), VERDICT, seconds=seconds)


async def test_it_reads_the_verdict_on_stdin(tmp_path: Path) -> None:
    target = tmp_path / "got"
    ended = await hook(f"import sys; open({str(target)!r}, 'wb').write(sys.stdin.buffer.read())")
    assert (ended.on, ended.ended, ended.code, ended.detail) == ("fail", "ok", 0, "")
    assert target.read_bytes() == VERDICT


async def test_one_that_reads_nothing_is_none_the_worse() -> None:
    ended = await hook("import os; os.close(0)")
    assert (ended.ended, ended.code) == ("ok", 0)


async def test_one_that_fails_is_told_with_what_it_said() -> None:
    ended = await hook("import sys; print('no such rollout\\x1b[31m', file=sys.stderr); sys.exit(7)")
    assert (ended.ended, ended.code) == ("failed", 7)
    assert ended.detail == "exit code 7: no such rollout[31m"


async def test_one_that_is_killed_is_told() -> None:
    ended = await hook("import os; os.kill(os.getpid(), 9)")
    assert (ended.ended, ended.code, ended.detail) == ("failed", -9, "ended by signal 9")


async def test_one_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    """The grandchild holds the pipe: it is what a wait for the end of the output would wait for."""
    began, note = time.monotonic(), tmp_path / "pid"
    ended = await hook(
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        f"open({str(note)!r}, 'w').write(str(child.pid)); time.sleep(600)",
        seconds=5.0,
    )
    assert (ended.ended, ended.code) == ("timed-out", None)
    assert "longer than 5 s" in ended.detail
    assert time.monotonic() - began < 300
    if note.exists():
        child = Path("/proc") / note.read_text()
        while child.exists() and "Z" not in (child / "status").read_text().split("State:")[1][:4]:
            time.sleep(0.01)


async def test_one_that_cannot_start_is_told() -> None:
    ended = await run_hook("hold", "/nowhere/at-all --now", VERDICT, seconds=5.0)
    assert (ended.ended, ended.code) == ("not-started", None)
    assert "/nowhere/at-all: No such file" in ended.detail


async def test_words_are_no_shell_unless_asked(tmp_path: Path) -> None:
    line = f"echo $(echo hello) > {shlex.quote(str(tmp_path / 'out'))}"
    await run_hook("pass", line, VERDICT, seconds=60.0)
    assert not (tmp_path / "out").exists()
    ended = await run_hook("pass", line, VERDICT, seconds=60.0, shell=True)
    assert ended.ended == "ok"
    assert (tmp_path / "out").read_text() == "hello\n"


@pytest.mark.parametrize("command", ["", "  ", "echo 'unclosed"])
def test_what_is_no_command_is_refused_before(command: str) -> None:
    with pytest.raises(ValueError, match=r"empty|quotation"):
        words_of(command)


def test_a_hold_is_what_neither_passes_nor_fails() -> None:
    assert [occasion_of(each) for each in ("PASS", "FAIL", "INCONCLUSIVE", "INSUFFICIENT")] == [
        "pass",
        "fail",
        "hold",
        "hold",
    ]

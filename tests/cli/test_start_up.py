"""SIGINT and SIGTERM before the event loop runs, in a prompt, and while a result waits for its reader."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import SOMACTL, Shell, density, environment

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
SIGNALS = pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)

# Sends itself the signal when the module named first is about to be imported, as one sent at that moment.
AT_IMPORT = """
import os, sys
from importlib.abc import MetaPathFinder
class Sender(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["MOMENT"]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), int(os.environ["NUMBER"]))
sys.meta_path.insert(0, Sender())
from somactl.cli import main
main()
"""
MOMENTS = [
    "somactl.cli.text",
    "somactl.cli.app",
    "typer",
    "msgspec",
    "somactl.cli.commands.look",
    "somactl.operations.inspect",
    "somactl.runtime",
    "somactl.store.sqlite",
    "asyncio",
    "asyncio.sslproto",
]


@pytest.mark.parametrize("mode", ["table", "json"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_ends_the_start_up(shell: Shell, moment: str, mode: str) -> None:
    number = list(CODES)[(MOMENTS.index(moment) + (mode == "json")) % 2]
    shell.write("a.json", "[[1.0]]")
    words = ["commit", "a=a.json"] if "store" in moment else ["ls"]
    done = subprocess.run(
        [sys.executable, "-c", AT_IMPORT, *words, "--output", mode],
        cwd=shell.folder,
        env=environment() | {"NUMBER": str(int(number)), "MOMENT": moment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == CODES[number], done.stderr
    assert done.stdout == ""
    assert "stopped before anything was written" in done.stderr
    assert "Traceback" not in done.stderr
    assert "never awaited" not in done.stderr
    assert not (shell.folder / "somactl.db").exists()


@pytest.mark.parametrize("at", range(4))
def test_at_any_moment_there_is_no_traceback(shell: Shell, at: int) -> None:
    """Where the interpreter itself still starts, the signal ends it as it ends every process."""
    rounds = 12 if os.environ.get("SOMACTL_TEST_NIGHT") else 2
    for k in range(rounds):
        number = list(CODES)[k % 2]
        process = subprocess.Popen(
            [SOMACTL, "ls"],
            cwd=shell.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(0.12 + at * 0.1 + k * 0.013)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (CODES[number], -number, 15), err  # 15: it was done already
        assert "bug" not in err
        if process.returncode == CODES[number]:
            assert "Traceback" not in err


@SIGNALS
@pytest.mark.parametrize(
    "words", [["compact"], ["prune", "--fallback", "oldest", "--keep", "0"]], ids=lambda words: words[0]
)
def test_a_signal_ends_a_prompt(shell: Shell, number: signal.Signals, words: list[str]) -> None:
    shell.commit("a", density(2))
    parent, child = pty.openpty()
    process = shell.begin(*words, stdin=child)
    os.close(child)
    assert process.stderr is not None
    said = b""
    while b"[y/N]" not in said:
        said += os.read(process.stderr.fileno(), 1000)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    os.close(parent)
    assert (process.returncode, b"Traceback" in err) == (CODES[number], False), err
    assert b"stopped before anything was written" in err
    assert shell.ok("ls", "-o", "json").json["total"] == 1


# Sends itself the signal when the question was printed, before its answer is read.
IN_BETWEEN = """
import os
from somactl.cli import confirm, main
def asked(stream):
    os.kill(os.getpid(), int(os.environ["NUMBER"]))
    return True
confirm.takes_more = asked
main()
"""


@SIGNALS
def test_a_signal_between_a_question_and_the_reading_of_its_answer_ends_it(
    shell: Shell, number: signal.Signals
) -> None:
    shell.commit("a", density(2))
    parent, child = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", IN_BETWEEN, "compact"],
        env=environment() | {"NUMBER": str(int(number))},
        cwd=shell.folder,
        stdin=child,
        capture_output=True,
        timeout=60,
    )
    os.close(parent)
    os.close(child)
    assert (done.returncode, b"Traceback" in done.stderr) == (CODES[number], False), done.stderr


def answered(shell: Shell, answer: bytes, stderr: int = subprocess.PIPE) -> tuple[int, bytes]:
    parent, child = pty.openpty()
    process = shell.begin("compact", stdin=child, stderr=stderr)
    os.close(child)
    os.write(parent, answer)
    _, err = process.communicate(timeout=60)
    os.close(parent)
    return process.returncode, err or b""


def test_an_answer_is_taken_and_an_end_is_no_yes(shell: Shell) -> None:
    shell.commit("a", density(2))
    assert answered(shell, b"y\n")[0] == 0
    for answer in (b"\n", b"n\n", b"\x04"):
        code, err = answered(shell, answer)
        assert (code, b"not confirmed" in err) == (2, True), err


def test_a_question_that_cannot_be_seen_is_not_asked(shell: Shell) -> None:
    shell.commit("a", density(2))
    with Path("/dev/full").open("wb") as full:
        assert answered(shell, b"y\n", full.fileno())[0] == 2


@SIGNALS
def test_a_signal_ends_the_wait_for_a_reader_and_tells_what_stands(
    shell: Shell, number: signal.Signals
) -> None:
    """The pipe is not read: the report does not fit into it, and the commit stands."""
    lines = b"".join(b'{"key": "key-%05d", "value": [[1.0]]}\n' % i for i in range(700))
    told = (shell.folder / "err").open("wb")
    process = shell.begin("commit", "--commit-id", "mine", "-o", "json", stdin=subprocess.PIPE, stderr=told)
    told.close()
    assert process.stdin is not None
    process.stdin.write(lines)
    process.stdin.close()
    while shell("status", "mine").code != 0:
        time.sleep(0.2)
    time.sleep(1)
    process.send_signal(number)
    assert process.wait(timeout=30) == CODES[number]
    assert process.stdout is not None
    process.stdout.close()
    err = (shell.folder / "err").read_bytes()
    assert b"Traceback" not in err
    assert b'"version":1' in err


@SIGNALS
def test_a_signal_ends_the_wait_for_a_file_that_is_a_pipe(shell: Shell, number: signal.Signals) -> None:
    os.mkfifo(shell.folder / "fifo")
    process = shell.begin("commit", "a=fifo")
    time.sleep(0.5)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, b"Traceback" in err) == (CODES[number], False), err

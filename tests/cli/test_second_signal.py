"""A second signal: work that writes no matrix waits for nothing more, and its report comes all the same."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

WORK = """
import asyncio
from contextlib import nullcontext, suppress

from somactl.cli.signals import impatient, run_until_done
from somactl.report import VerifyReport

async def work():
    for_ever = asyncio.ensure_future(asyncio.sleep(3600))
    print("ready", flush=True)
    with {around}():
        for told in ("first", "second"):
            with suppress(asyncio.CancelledError):
                await asyncio.shield(for_ever)
            print(told, flush=True)
    return VerifyReport(method="certify", complete=False)

print(run_until_done(work()).code, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_waiting(number: int) -> None:
    with started("impatient") as process:
        for told in ("ready", "first"):
            assert line(process) == told
            process.send_signal(number)
        assert line(process) == "second"
        assert line(process) == str(128 + number)


def test_elsewhere_a_write_is_waited_for() -> None:
    with started("nullcontext") as process:
        for told in ("ready", "first"):
            assert line(process) == told
            process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.0)
        process.kill()


def started(around: str) -> subprocess.Popen[str]:
    code = WORK.format(around=around)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()

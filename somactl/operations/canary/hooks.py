"""Commands that are run with the verdict as JSON on stdin. How they end is told apart from the verdict."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from typing import Final, Literal

from somactl.core.canary_verdict import Outcome
from somactl.report import CanaryHook

Occasion = Literal["pass", "fail", "hold"]
MOST_TOLD: Final = 300
"""Characters of what a failed hook printed that are told."""
END_SECONDS: Final = 2.0
"""A hook that took too long has so long to end on SIGTERM."""


def occasion_of(outcome: Outcome) -> Occasion:
    return {"PASS": "pass", "FAIL": "fail"}.get(outcome, "hold")  # type: ignore[return-value]


def words_of(command: str) -> list[str]:
    """The words of a command, as a shell would split them. Raises ValueError."""
    words = shlex.split(command)
    if not words:
        raise ValueError("it is empty")
    return words


async def run_hook(
    on: Occasion, command: str, verdict: bytes, *, seconds: float, shell: bool = False
) -> CanaryHook:
    """Run the command, by a shell only if asked to, and end it after `seconds`; raises nothing of its own."""
    words = ["/bin/sh", "-c", command] if shell else words_of(command)
    began = time.monotonic()
    ended = CanaryHook(on=on, command=command, ended="not-started")
    try:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=PIPE, stdout=PIPE, stderr=STDOUT, start_new_session=True
        )
    except (OSError, ValueError) as exc:
        ended.detail = f"{words[0]}: {getattr(exc, 'strerror', None) or exc}"
        return ended
    try:
        async with asyncio.timeout(seconds):
            said = await _talk(process, verdict)
        ended.code = process.returncode
        ended.ended = "ok" if ended.code == 0 else "failed"
        ended.detail = "" if ended.code == 0 else _told(ended.code or 0, said)
    except TimeoutError:
        ended.ended, ended.detail = "timed-out", f"it took longer than {seconds:g} s, and was ended"
    finally:
        await _end(process)
    ended.seconds = round(time.monotonic() - began, 3)
    return ended


async def _talk(process: Process, verdict: bytes) -> bytes:
    """What it printed at last; one that reads no stdin is none the worse."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        said, _ = await process.communicate(verdict)
        return said[-4 * MOST_TOLD :]
    await process.wait()
    return b""


async def _end(process: Process) -> None:
    """End it with all that it started, first gently."""
    for number, patience in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, END_SECONDS)):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await process.wait()


def _told(code: int, said: bytes) -> str:
    text = " ".join(said.decode("utf-8", "replace").split())[-MOST_TOLD:]
    text = "".join(c for c in text if c.isprintable())
    ended = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{ended}: {text}" if text else ended

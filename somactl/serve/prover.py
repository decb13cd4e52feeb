"""The process that proves: `python -m somactl.serve.prover`, started by the supervisor.

It is told what to do in one line on its standard input, and tells what it finds on a pipe of its own, one
message a line: a library may print what it likes. It ends when its standard input does, which is when the
process that started it has ended, however that came about.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import replace
from typing import Any

import msgspec

from somactl.runtime import open_server
from somactl.serve.model import PROTOCOL, Beat, Hello, Message, Start, encode
from somactl.serve.pulse import Pulse
from somactl.serve.rounds import Rounds

OUT_OF_MEMORY = 77
"""What it exits with where there was no memory for a proof."""
END_SECONDS = 1.0
"""How long connections may take to be closed."""
_PR_SET_PDEATHSIG = 1


class Prover:
    """Watches the namespaces that it was told to, until it is cancelled."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._progress = 0

    async def run(self) -> None:
        """Raises what ends it: there is nothing to be done about that here."""
        start = self._start
        self.tell(Hello())
        settings = replace(start.settings, retry_seconds=0.0)  # the next round tries again
        async with open_server(settings, read_only=True) as server, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._beat())
            await asyncio.to_thread(_prepare)
            for name in start.watch.namespaces:
                store = server.namespace(name)
                pulse = Pulse(store, start.watch.interval, settings.read_timeout)
                rounds = Rounds(store, start.watch, pulse, self.tell, progress=self._progressed)
                tasks.create_task(rounds.watch())

    def tell(self, message: Message) -> None:
        """Write a message, however long the reader takes to read it."""
        rest = memoryview(encode(message))
        while rest:
            rest = rest[os.write(self._start.pipe, rest) :]

    def _progressed(self) -> None:
        self._progress += 1

    async def _beat(self) -> None:
        while True:
            self.tell(Beat(self._progress))
            await asyncio.sleep(self._start.beat)


def _prepare() -> None:
    """Import what proofs need, which takes long."""
    import somactl.core.batch
    import somactl.core.verification  # noqa: F401


def main() -> None:
    """Never returns."""
    os.dup2(2, 1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with the process that started it, and not before
    start = msgspec.json.decode(sys.stdin.buffer.readline(), type=Start)
    if start.protocol != PROTOCOL:
        sys.exit(f"the prover speaks protocol {PROTOCOL}, not {start.protocol}")
    _yield_to_others(start.nice)
    _die_with(start.parent)
    _end(_run(start))


def _run(start: Start) -> int:
    try:
        asyncio.run(_until_told(Prover(start)))
    except BaseExceptionGroup as group:
        return _failed(group)
    except BrokenPipeError:
        return 0  # nothing reads any more
    except BaseException as exc:
        return _failed(exc)
    return 0


async def _until_told(prover: Prover) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    threading.Thread(target=_wait_for_end, args=(loop, ended), daemon=True).start()
    work = asyncio.create_task(prover.run())
    told = asyncio.create_task(ended.wait())
    await asyncio.wait({work, told}, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        work.result()
        return
    work.cancel()
    await asyncio.wait({work}, timeout=END_SECONDS)
    _end(0)


def _wait_for_end(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    """Returns never: once standard input has ended, the process has little time to."""
    while os.read(0, 4096):
        pass
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(ended.set)
    time.sleep(2 * END_SECONDS)
    _end(0)


def _failed(error: BaseException) -> int:
    traceback.print_exception(error)
    if isinstance(error, BaseExceptionGroup):
        return OUT_OF_MEMORY if error.subgroup(MemoryError) is not None else 1
    return OUT_OF_MEMORY if isinstance(error, MemoryError) else 1


def _end(code: int) -> Any:
    """End now: a proof may be under way in a thread, which Python would wait for."""
    sys.stderr.flush()
    os._exit(code)


def _yield_to_others(nice: int) -> None:
    """Let all else run first, and let the kernel take this process where memory runs out."""
    if os.getpriority(os.PRIO_PROCESS, 0) < nice:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _die_with(parent: int) -> None:
    """Be killed when that process ends, where the kernel does that: this one may be stopped, or hang."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        _end(0)


if __name__ == "__main__":
    main()

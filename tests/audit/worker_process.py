"""A process that audits in worker processes: `worker_process.py URL FOLDER METHOD hangs|works`.

Says `working` when a worker has begun. One that works waits for SIGTERM, then says how many tasks were done.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from somactl.operations.audit.model import Check
from somactl.operations.audit.workers import Processes
from support.audited import tasks_of
from support.openers import Opener

# A shell has what it starts in the background ignore Ctrl-C, and its children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def main(url: str, folder: str, method: str, hangs: str) -> int:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    notes = Path(folder)
    opener = Opener(url, "k00000", notes, hangs=hangs == "hangs")
    workers = Processes(opener, Check(), 2, method=method)
    keys = [f"k{number:05}" for number in range(40)]
    try:
        begun = [asyncio.create_task(workers.prove(task)) for task in tasks_of(keys, 10)]
        while not any(notes.iterdir()):
            await asyncio.sleep(0.01)
        _say("working")
        if hangs != "hangs":
            await stop.wait()  # so that what is proven from here on is so after the signal
            begun += [asyncio.create_task(workers.prove(task)) for task in tasks_of(keys, 10)]
        _say(str(len(await asyncio.gather(*begun))))
    finally:
        await workers.close()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main(*sys.argv[1:])))
    except KeyboardInterrupt:
        os._exit(130)

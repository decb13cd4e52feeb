"""A process that counts in a note of a file until it has counted COUNT times, or is killed.

Arguments: PATH COUNT. It waits for a line, and prints one for each write that was acknowledged.
"""

from __future__ import annotations

import asyncio
import sys

from somactl.errors import VersionConflict
from somactl.operations.jobs.notes_file import NotesFile


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def main(path: str, count: int) -> None:
    notes = NotesFile(path)
    say("ready")
    sys.stdin.readline()
    while count:
        there = (await notes.read_notes(["sum"])).get("sum")
        before, version = (0, 0) if there is None else (int(there.data or b"0"), there.version)
        filling = b"x" * (before % 7 * 1000)
        try:
            await notes.write_notes({"sum": b"%d" % (before + 1), "filling": filling}, {"sum": version})
        except VersionConflict:
            continue
        say(str(before + 1))
        count -= 1


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))

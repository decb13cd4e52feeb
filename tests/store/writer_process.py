"""A process that commits until it is told, or killed, to stop. Started by test_sqlite_processes.py.

Prints `ready`, waits for a line `PATH PREFIX COUNT`, then commits under the ids PREFIX-0, PREFIX-1, ... and
prints one line per commit: `sent ID` before and `done ID VERSION` after. It imports the store and nothing
else, because many of it are started.
"""

from __future__ import annotations

import asyncio
import os
import sys

from somactl.core.framing import build_header, digest
from somactl.store.contract import CommitMetadata
from somactl.store.sqlite import SqliteStore

KEYS = ("a", "b", "c")
SIDE = 150


def envelope(key: str) -> bytes:
    payload = os.urandom(SIDE * 4) * (SIDE * 2)
    header = build_header(
        kind="matrix",
        dtype="float64",
        shape=(SIDE, SIDE),
        layout="full",
        compression="none",
        timestamp=0.0,
        namespace="default",
        key=key,
        payload_length=len(payload),
        payload_digest=digest(payload),
        canonical_digest=digest(payload),
    )
    return header + payload


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def main() -> None:
    values = [{key: envelope(key) for key in KEYS} for _ in range(3)]
    say("ready")
    path, prefix, count = sys.stdin.readline().split()
    store = SqliteStore(path)
    for number in range(int(count)):
        commit_id = f"{prefix}-{number}"
        say(f"sent {commit_id}")
        update = values[number % 3]
        receipt = await store.commit_matrix_update(update, CommitMetadata(), commit_id=commit_id)
        say(f"done {commit_id} {receipt.version}")
    await store.close()


if __name__ == "__main__":
    asyncio.run(main())

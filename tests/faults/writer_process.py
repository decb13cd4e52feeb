"""Processes that commit until they are killed.

Importing takes longer than what is tested. So one process imports everything, prints `ready`, and for each
order that it reads forks a child that carries it out; it prints the child's pid. The child appends to a
file, before each commit, `sent NUMBER`, and after it `done NUMBER TIME RECEIPT` or `failed NUMBER TIME
ERROR`: what it wrote there stays, however it dies. When the orders end, so do the children.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

import msgspec

from faults.load import GROUPS
from faults.marked import LARGE, SMALL, envelope
from faults.opening import Spec
from somactl.errors import SomactlError
from somactl.store.contract import CommitMetadata


class Order(msgspec.Struct, frozen=True):
    """Commit under the ids `p<client>-1`, `p<client>-2`, ...; tell the file `told`."""

    spec: Spec
    client: int
    told: str
    count: int = 1_000_000


def commit_id(client: int, number: int) -> str:
    return f"p{client}-{number}"


def update(client: int, number: int) -> tuple[dict[str, int | None], int]:
    """What that commit writes, key -> marker, and the side of its matrices."""
    group = GROUPS[(client + number) % len(GROUPS)]
    marker = None if number % 7 == 0 else (100 + client) * 1_000_000 + number
    return dict.fromkeys(group, marker), LARGE if number % 5 == 0 else SMALL


async def carry_out(order: Order) -> None:
    told = os.open(order.told, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def tell(*words: object) -> None:
        os.write(told, (" ".join(map(str, words)) + "\n").encode())

    store = order.spec.open()
    for number in range(1, order.count + 1):
        updates, side = update(order.client, number)
        data = {
            key: None if marker is None else envelope(order.spec.namespace, key, marker, side)
            for key, marker in updates.items()
        }
        tell("sent", number)
        try:
            receipt = await store.commit_matrix_update(
                data, CommitMetadata(), commit_id=commit_id(order.client, number)
            )
        except SomactlError as exc:
            tell("failed", number, time.time(), exc.exit_code, type(exc).__name__)
        else:
            tell("done", number, time.time(), msgspec.json.encode(receipt).decode())
    await store.close()


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # killed children leave no zombies
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        order = msgspec.json.decode(line, type=Order)
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            asyncio.run(carry_out(order))
            os._exit(0)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()

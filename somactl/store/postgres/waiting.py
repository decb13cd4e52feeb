"""Who keeps a call waiting for a lock, asked over a second connection while it waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from somactl.errors import SomactlError
from somactl.store.postgres.connections import Connections
from somactl.store.postgres.session import Row, Session
from somactl.store.waiting import NOTICED_SECONDS


@contextlib.asynccontextmanager
async def watched(
    session: Session, connections: Connections, tell: Callable[[str], None]
) -> AsyncIterator[None]:
    """While the block runs, `tell` who holds the lock that `session` waits for, at most once a second."""
    watcher = asyncio.create_task(_watch(session, connections, tell))
    try:
        yield
    finally:
        watcher.cancel()
        await asyncio.wait([watcher])


async def _watch(session: Session, connections: Connections, tell: Callable[[str], None]) -> None:
    with contextlib.suppress(SomactlError):
        while True:
            await asyncio.sleep(NOTICED_SECONDS)
            async with connections.lease(bare=True) as other:
                rows = await other.rows("blockers", session.connection.get_server_pid())
            if rows:
                tell(", ".join(map(_told, rows)))


def _told(row: Row) -> str:
    name = f" ({row['name']})" if row["name"] else ""
    state = f", {row['state']} for {row['seconds']:.0f} s" if row["state"] and row["seconds"] else ""
    return f"process {row['pid']}{name}{state}"

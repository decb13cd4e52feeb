"""Waiting until replicas have a commit too."""

from __future__ import annotations

from somactl.errors import SomactlError
from somactl.store.redis.reading import Reader

WAIT_MS = 1000
"""How long a commit waits for its replicas: by then it is made, whatever they say."""


async def confirm(reader: Reader, commit_id: str, replicas: int) -> str | None:
    """`replicated:K` if K replicas have the commit, which its record then says as well; else None.

    WAIT counts from the last write of its own connection, so it follows a write that changes nothing but
    comes after the commit. A failure here leaves a commit that is made and less durable than was hoped.
    """
    if not replicas:
        return None
    record = reader.names.commit(commit_id)
    try:
        if (
            await reader.link.write_and_wait(("HSET", record, "replicas", replicas), replicas, WAIT_MS)
            < replicas
        ):
            return None
        durability = f"replicated:{replicas}"
        reader.link.values(await reader.link.ask(("HSET", record, "durability", durability)))
    except SomactlError:
        return None
    return durability

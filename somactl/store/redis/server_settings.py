"""What the server's settings make of a commit: whether it may be trusted with one, and how durable it is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from somactl.errors import AccessDenied, UnsafeServer
from somactl.store.redis.link import Link

CHECKED_SECONDS = 60.0
"""How long settings are taken to be what they were: an operator may change them at any time."""
_SETTINGS = ("maxmemory-policy", "appendonly", "appendfsync")


class ServerSettings(msgspec.Struct, frozen=True):
    """`policy` is maxmemory-policy. `fsync`: every write is on disk before it is acknowledged."""

    policy: str
    fsync: bool

    @property
    def safe(self) -> bool:
        return self.policy == "noeviction"

    @property
    def durability(self) -> str:
        return "fsync" if self.fsync else "memory"


async def inspect(link: Link) -> ServerSettings:
    """The server's settings as they are now; raises AccessDenied where it does not tell them."""
    config, memory = await link.ask(("CONFIG", "GET", *_SETTINGS), ("INFO", "memory"))
    told = settings(config)
    policy = told.get("maxmemory-policy") or info(memory).get("maxmemory_policy")
    for reply in (config, memory):
        if isinstance(reply, Exception) and not isinstance(link.error(reply), AccessDenied):
            raise link.error(reply)
    if policy is None:
        raise AccessDenied(
            f"{link.place} does not tell its maxmemory-policy, so it may evict what a store must keep",
            hint="grant the user +info, or +config|get (the whole list: docs/STORE_REDIS.md)",
        )
    return ServerSettings(policy, told.get("appendonly") == "yes" and told.get("appendfsync") == "always")


def settings(reply: Any) -> dict[str, str]:
    """What CONFIG GET tells; nothing where that is forbidden or unknown."""
    if isinstance(reply, Exception):
        return {}
    pairs: Sequence[bytes] = reply
    return {pairs[i].decode(): pairs[i + 1].decode() for i in range(0, len(pairs), 2)}


def info(reply: Any) -> dict[str, str]:
    """What INFO tells; nothing where that is forbidden."""
    if isinstance(reply, Exception):
        return {}
    lines = (line.partition(":") for line in bytes(reply).decode(errors="replace").splitlines())
    return {name: value for name, mark, value in lines if mark}


class WriteGuard:
    """Lets writes pass while the server behind `link` is fit for them; asks it at most once a minute."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._found: ServerSettings | None = None
        self._of: tuple[str, int] = ("", 0)
        self._until = 0.0

    async def settings(self) -> ServerSettings:
        """Those of the last minute, unless another connection was made since: that may lead elsewhere.

        Settings that forbid writes are looked at each time, so that mending them helps at once.
        """
        await self._link.reach()
        now = asyncio.get_running_loop().time()
        found = self._found
        if found is None or not found.safe or now > self._until or self._of != self._link.connects:
            found = self._found = await inspect(self._link)
            self._of, self._until = self._link.connects, now + CHECKED_SECONDS
        return found

    async def writable(self) -> ServerSettings:
        """The server's settings for a write; raises UnsafeServer where it could be evicted."""
        found = await self.settings()
        if not found.safe:
            raise UnsafeServer(
                f"{self._link.place} may evict what is committed: its maxmemory-policy is {found.policy}",
                hint="set maxmemory-policy to noeviction (`CONFIG SET`, and in its configuration file), or "
                "keep the truth in Postgres and use this Redis as `cache`",
                policy=found.policy,
            )
        return found

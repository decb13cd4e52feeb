"""The way to the server that holds a namespace: one, or whichever node of a cluster serves its slot.

And what that server's settings make of a commit: whether it may be trusted with one, and how durable it is.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import msgspec
from redis.exceptions import NoScriptError

from somactl.errors import AccessDenied, ConfigurationError, StoreUnavailable, UnsafeServer
from somactl.store.redis import connection
from somactl.store.redis.connection import Server
from somactl.store.redis.failures import refused, reply as error_reply, translate
from somactl.store.redis.pool import Argument, Behind, Call, Command, Pool, Reply, Script

REDIRECT_SECONDS = 5.0
"""How long redirections are followed while a slot is on its way from node to node."""
_PAUSE = 0.05
_MOVED = ("MOVED", "ASK", "TRYAGAIN")
CHECKED_SECONDS = 60.0
"""How long settings are taken to be what they were: an operator may change them at any time."""
_SETTINGS = ("maxmemory-policy", "appendonly", "appendfsync")


class Nodes:
    """All servers behind one URL, each with its pool of connections. `timed`: their clock is a store's."""

    def __init__(
        self, server: Server, *, timeout: float, connect_timeout: float, timed: bool = False
    ) -> None:
        self.server = server
        self._timed = timed
        self._settings = connection.settings(server, timeout=None, connect_timeout=connect_timeout)
        self._timeouts = {"timeout": timeout, "connect_timeout": connect_timeout}
        self._pools: dict[tuple[str, int], Pool] = {}
        self._told: list[tuple[str, int]] = []

    def link(self) -> Link:
        """A way for the commands of one slot. Connects to nothing yet."""
        return ClusterLink(self) if self.server.cluster else Link(self.pool())

    def pool(self, node: tuple[str, int] | None = None) -> Pool:
        """The connections to `node`; to the URL's own server without one."""
        node = node or (self.server.nodes[0] if self.server.nodes else (self.server.path, 0))
        if node not in self._pools:
            kind = connection.connection_class(self.server)
            where = {**connection.location(self.server), **({} if self.server.path else {"host": node[0]})}
            if not self.server.path:
                where["port"] = node[1]
            place = f"{self.server.place} ({node[0]}:{node[1]})" if self.server.cluster else self.server.place
            self._pools[node] = Pool(
                lambda: kind(**where, **self._settings),
                node,
                place,
                anonymous=self.server.anonymous,
                timed=self._timed,
                **self._timeouts,
            )
        return self._pools[node]

    async def reachable(self, pool: Pool) -> Pool:
        """`pool`, or that of another node of the cluster where its server cannot be reached.

        A node that answers is asked for the others, so that any of them may fail later. Raises
        StoreUnavailable where none answers.
        """
        failure: StoreUnavailable | None = None
        for node in dict.fromkeys([pool.node, *self.server.nodes, *self._told]):
            try:
                await self.pool(node).reach()
            except StoreUnavailable as exc:
                failure = failure or exc
                continue
            if failure is not None or not self._told:
                self._told = await _nodes_of(self.pool(node))
            return self.pool(node)
        assert failure is not None  # there is one node at least
        raise failure

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.close()


class Link:
    """Commands for the one server of a URL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @property
    def place(self) -> str:
        return self._pool.place

    @property
    def connects(self) -> tuple[str, int]:
        """Changes whenever there may be another server, or another process, than a moment ago."""
        return self._pool.place, self._pool.connects

    async def reach(self) -> None:
        """Have a live connection ready; raises StoreUnavailable where there is none to be had."""
        await self._pool.reach()

    async def ask(
        self, *commands: Command | Call, commit_id: str | None = None, behind: Behind | None = None
    ) -> list[Reply]:
        """The replies to all commands, sent in one round trip; errors stand among them (see `value`).

        Other clients' commands may run in between. Where the server does not know a script, it is sent
        again by its source, and so is all that stands behind it. `behind` goes on over the connection of
        each attempt, and sees from the replies what that came to. Raises what `Pool.exchange` does.
        """
        plain = [each.by_digest if isinstance(each, Call) else each for each in commands]
        replies = await self._exchange(plain, commit_id, behind)
        unknown = next((i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)), None)
        if unknown is None:
            return replies
        again = [each.by_source if isinstance(each, Call) else each for each in commands[unknown:]]
        return [*replies[:unknown], *await self._exchange(again, commit_id, behind)]

    async def run(
        self,
        script: Script,
        keys: Sequence[Argument],
        arguments: Sequence[Argument] = (),
        *,
        before: Sequence[Command | Call] = (),
        commit_id: str | None = None,
    ) -> tuple[list[Reply], Reply]:
        """The replies to `before`, and that of `script`, sent behind it in the same round trip."""
        *first, last = await self.ask(*before, Call(script, keys, arguments), commit_id=commit_id)
        return first, last

    async def call(self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument] = ()) -> Any:
        """The reply of a script; an error reply is raised as `value` raises it."""
        _, reply = await self.run(script, keys, arguments)
        return self.value(reply)

    async def _exchange(
        self, commands: Sequence[Command], commit_id: str | None, behind: Behind | None
    ) -> list[Reply]:
        replies = await self._pool.exchange(commands, commit_id=commit_id, behind=behind)
        if any(map(_redirection, replies)):
            raise ConfigurationError(
                f"{self.place} is a node of a cluster", hint="name a cluster as redis+cluster://"
            )
        return replies

    def value(self, reply: Reply) -> Any:
        """`reply`, or the error that it is, translated."""
        if isinstance(reply, Exception):
            raise self.error(reply)
        return reply

    def values(self, replies: Sequence[Reply]) -> list[Any]:
        return [self.value(reply) for reply in replies]

    def written(self, reply: Reply, commit_id: str) -> Any:
        """`reply` to a write, or its error: OutcomeUnknown unless it proves that nothing was written."""
        if isinstance(reply, Exception):
            raise refused(reply, self.place, commit_id) from reply
        return reply

    def error(self, reply: Exception) -> Exception:
        """The somactl error that an error reply stands for, or itself where it can only be a bug of ours."""
        error = translate(reply, self.place)
        if error is None:
            return reply
        error.__cause__ = reply
        return error


class ClusterLink(Link):
    """Commands for one slot of a cluster: follows MOVED and ASK, and waits a while where it says TRYAGAIN.

    All commands must belong to the same slot. A redirected command has not been carried out, so sending
    it elsewhere is safe. Nothing is known of the cluster beforehand: any node tells where a slot is.
    """

    def __init__(self, nodes: Nodes) -> None:
        super().__init__(nodes.pool())
        self._nodes = nodes

    async def reach(self) -> None:
        self._pool = await self._nodes.reachable(self._pool)

    async def _exchange(
        self, commands: Sequence[Command], commit_id: str | None, behind: Behind | None
    ) -> list[Reply]:
        self._pool.enter()
        clock = asyncio.get_running_loop().time
        end = clock() + REDIRECT_SECONDS
        replies: list[Reply] = [None] * len(commands)
        waiting = list(range(len(commands)))
        while True:
            await self.reach()
            await self._send(self._pool, commands, waiting, replies, commit_id, behind)
            asked = _where(replies, waiting, "ASK")
            if asked:
                node = _target(replies[asked[0]], self._pool)
                await self._send(
                    self._nodes.pool(node), commands, asked, replies, commit_id, behind, asking=True
                )
            waiting = [i for i in waiting if _redirection(replies[i])]
            if not waiting or clock() > end:
                return replies
            moved = _where(replies, waiting, "MOVED")
            if moved:
                self._pool = self._nodes.pool(_target(replies[moved[0]], self._pool))
            else:
                await asyncio.sleep(_PAUSE * (0.5 + random.random()))

    async def _send(
        self,
        pool: Pool,
        commands: Sequence[Command],
        chosen: Sequence[int],
        replies: list[Reply],
        commit_id: str | None,
        behind: Behind | None,
        *,
        asking: bool = False,
    ) -> None:
        """Put the replies to the chosen commands in their places."""
        part = [commands[i] for i in chosen]
        got = await pool.exchange(part, asking=asking, commit_id=commit_id, behind=behind)
        for i, reply in zip(chosen, got, strict=True):
            replies[i] = reply


async def _nodes_of(pool: Pool) -> list[tuple[str, int]]:
    """Every node of the cluster, as the one behind `pool` tells; primaries and replicas alike."""
    (ranges,) = await pool.exchange([("CLUSTER", "SLOTS")])
    if isinstance(ranges, Exception):
        raise translate(ranges, pool.place) or ranges
    nodes = [node for _, _, *nodes in ranges for node in nodes]
    return list(dict.fromkeys(((host or b"").decode() or pool.node[0], port) for host, port, *_ in nodes))


def _redirection(reply: Reply) -> str:
    code = error_reply(reply)[0] if isinstance(reply, Exception) else ""
    return code if code in _MOVED else ""


def _where(replies: Sequence[Reply], chosen: Sequence[int], code: str) -> list[int]:
    return [i for i in chosen if _redirection(replies[i]) == code]


def _target(reply: Reply, asked: Pool) -> tuple[str, int]:
    """The node a redirection names; one without a host means another port of the node that was asked."""
    host, port = reply.node_addr
    return host or asked.node[0], port


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


async def inspect_settings(link: Link) -> ServerSettings:
    """The server's settings as they are now; raises AccessDenied where it does not tell them."""
    config, memory = await link.ask(("CONFIG", "GET", *_SETTINGS), ("INFO", "memory"))
    told = parse_config(config)
    policy = told.get("maxmemory-policy") or parse_info(memory).get("maxmemory_policy")
    for reply in (config, memory):
        if isinstance(reply, Exception) and not isinstance(link.error(reply), AccessDenied):
            raise link.error(reply)
    if policy is None:
        raise AccessDenied(
            f"{link.place} does not tell its maxmemory-policy, so it may evict what a store must keep",
            hint="grant the user +info, or +config|get (the whole list: docs/STORE_REDIS.md)",
        )
    return ServerSettings(policy, told.get("appendonly") == "yes" and told.get("appendfsync") == "always")


def parse_config(reply: Any) -> dict[str, str]:
    """What CONFIG GET tells; nothing where that is forbidden or unknown."""
    if isinstance(reply, Exception):
        return {}
    pairs: Sequence[bytes] = reply
    return {pairs[i].decode(): pairs[i + 1].decode() for i in range(0, len(pairs), 2)}


def parse_info(reply: Any) -> dict[str, str]:
    """What INFO tells; nothing where that is forbidden."""
    if isinstance(reply, Exception):
        return {}
    lines = (line.partition(":") for line in bytes(reply).decode(errors="replace").splitlines())
    return {name: value for name, mark, value in lines if mark}


def is_replica(told: Any) -> bool:
    """Whether a server that replied so to INFO is one; False where it does not say."""
    return isinstance(told, bytes) and b"role:slave" in told


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
            found = self._found = await inspect_settings(self._link)
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

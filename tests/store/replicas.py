"""Replicas of Redis servers, and how they take over."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from servers.redis import ClusterNode, RedisCluster, RedisServer

AT_ONCE = {"repl-diskless-sync-delay": "0"}
"""A primary of these settings does not wait for more replicas before it copies its data to the first."""


async def follow(replica: RedisServer, primary: RedisServer) -> None:
    """Make it a replica, and return when it has all that the primary has."""
    with replica.client() as raw, primary.client() as asked:
        raw.replicaof("127.0.0.1", primary.port)
        asked.set("any", "write")
        assert asked.wait(1, 60_000) == 1


async def attach(cluster: RedisCluster, primary: ClusterNode, replica: ClusterNode) -> None:
    """Add a node to the cluster as a replica, and return when all know it and can vote for it."""
    replica.command_of_cluster("MEET", "127.0.0.1", primary.port, primary.bus_port)
    await until(lambda: primary.id.encode() in replica.command_of_cluster("NODES"))
    replica.command_of_cluster("REPLICATE", primary.id)
    with replica.client() as raw:
        await until(lambda: raw.info("replication").get("master_link_status") == "up")
    members = [*cluster.nodes, replica]
    own_id = replica.command_of_cluster("MYID")
    await until(lambda: all(_knows(node, own_id, primary.id) for node in members))
    await until(lambda: all(_is_connected(node, len(members)) for node in members))


def _knows(witness: ClusterNode, replica: bytes, primary: str) -> bool:
    """Whether a node knows the replica, and whose it is."""
    return any(words[0] == replica and words[3] == primary.encode() for words in _nodes_of(witness))


def _is_connected(node: ClusterNode, count: int) -> bool:
    """Whether it can ask so many nodes for their votes, itself among them."""
    state = node.command_of_cluster("INFO").splitlines()
    lines = _nodes_of(node)
    return (
        b"cluster_state:ok" in state
        and len(lines) == count
        and all(words[7] == b"connected" for words in lines)
    )


def _nodes_of(node: ClusterNode) -> list[list[bytes]]:
    """What it says of each node it knows: id, address, flags, primary, ping, pong, epoch, link."""
    return [line.split() for line in node.command_of_cluster("NODES").splitlines()]


async def take_over(replica: ClusterNode) -> None:
    """Make a replica the primary. It asks the others for their votes once, and gives up after 5 s. On a busy
    machine that may be too soon: then it has to be told again, and asks again after 20 s.
    """
    with replica.client() as raw:
        for _ in range(10):
            replica.command_of_cluster("FAILOVER")
            with contextlib.suppress(AssertionError):
                return await until(lambda: raw.info("replication")["role"] == "master", seconds=6)
    raise AssertionError(f"the replica never became the primary; its log ends:\n{replica.log_tail(20)}")


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)

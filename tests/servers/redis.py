"""Redis, alone and as a cluster whose slots can be moved, and left half-moved."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import redis
from redis.crc import key_slot

from servers.certificates import make_certificates
from servers.process import Server, ServerFailed, find, free_port

Config = Mapping[str, str | Sequence[str]]

DEFAULTS: Config = {
    "save": "",
    "appendonly": "no",
    "maxmemory-policy": "noeviction",
    "shutdown-timeout": "0",
}

SLOTS = 16384
FORM_SECONDS = 60.0


class RedisServer(Server):
    """A Redis on 127.0.0.1 that persists nothing, unless `config` says otherwise.

    A directive that may stand repeatedly, like `user`, takes a list of values. A change of `config` counts
    from the next start. With `tls` it speaks nothing else, and `ca_file` is the authority to trust.
    """

    program: ClassVar[str] = "redis-server"
    ready: ClassVar[str] = "Ready to accept connections"

    def __init__(self, folder: Path, *, config: Config | None = None, tls: bool = False) -> None:
        self.executable = find(self.program)
        super().__init__(folder)
        self.config: dict[str, str | Sequence[str]] = {**DEFAULTS, **(config or {})}
        self.socket = self.runtime / "redis.sock"
        self.tls = make_certificates(self.runtime) if tls else None
        self.ca_file = self.tls.ca if self.tls else None

    @property
    def url(self) -> str:
        scheme = "rediss" if self.tls else "redis"
        return f"{scheme}://127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.socket}?db=0"

    def client(self, **options: Any) -> redis.Redis:
        """A plain client, to look behind a store's back: `with server.client() as raw: ...`."""
        if self.ca_file is not None:
            options = {"ssl_ca_certs": str(self.ca_file), **options}
        return redis.Redis.from_url(self.url, **options)

    def prepare(self) -> None:
        ports = {"port": str(self.port)}
        if self.tls is not None:
            ports = {
                "port": "0",
                "tls-port": str(self.port),
                "tls-ca-cert-file": str(self.tls.ca),
                "tls-cert-file": str(self.tls.certificate),
                "tls-key-file": str(self.tls.key),
                "tls-auth-clients": "no",
            }
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        own = {
            "bind": "127.0.0.1",
            "dir": json.dumps(str(data)),
            "unixsocket": str(self.socket),
            "daemonize": "no",
            **ports,
        }
        lines = [
            f"{name} {value or json.dumps('')}\n"
            for name, values in {**own, **self.config}.items()
            for value in ([values] if isinstance(values, str) else values)
        ]
        self._config_file.write_text("".join(lines))

    @property
    def _config_file(self) -> Path:
        return self.folder / "redis.conf"

    def command(self) -> list[str | Path]:
        return [self.executable, self._config_file]


class ClusterNode(RedisServer):
    """One node. The nodes talk to each other on a port that it keeps as well."""

    bus_port = 0
    id = ""

    def choose_ports(self) -> None:
        super().choose_ports()
        # By default it is 10,000 above the other, where the kernel's ports for clients are.
        self.bus_port = free_port()
        self.config["cluster-port"] = str(self.bus_port)

    def command_of_cluster(self, *words: object) -> Any:
        """What this node, and no other, replies to `CLUSTER ...`."""
        with self.client() as raw:
            return raw.execute_command("CLUSTER", *words)


class RedisCluster:
    """`nodes` primaries with the slots spread evenly."""

    def __init__(self, folder: Path, nodes: int = 3, *, config: Config | None = None) -> None:
        own = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": "5000",
            "cluster-allow-replica-migration": "no",
        }
        self.nodes = [
            ClusterNode(folder / f"node-{number}", config={**own, **(config or {})})
            for number in range(nodes)
        ]

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def client(self, **options: Any) -> redis.RedisCluster:
        """A plain client, to look behind a store's back: close it after use."""
        return redis.RedisCluster(host="127.0.0.1", port=self.nodes[0].port, **options)

    def start(self) -> Self:
        for node in self.nodes:
            node.start()
        if not self.nodes[0].id:
            self._form()
        self.wait_until_ok()
        return self

    def _form(self) -> None:
        first, count = self.nodes[0], len(self.nodes)
        for number, node in enumerate(self.nodes):
            node.id = node.command_of_cluster("MYID").decode()
            node.command_of_cluster("SET-CONFIG-EPOCH", number + 1)
            begin, end = SLOTS * number // count, SLOTS * (number + 1) // count - 1
            node.command_of_cluster("ADDSLOTSRANGE", begin, end)
            if node is not first:
                node.command_of_cluster("MEET", "127.0.0.1", first.port, first.bus_port)

    def wait_until_ok(self) -> None:
        """Return when every node sees every other, and all slots served."""
        deadline = time.monotonic() + FORM_SECONDS
        while not all(map(self._sees_all, self.nodes)):
            if time.monotonic() > deadline:
                logs = "\n".join(node.log_tail(10) for node in self.nodes)
                raise ServerFailed(f"the cluster did not form in {FORM_SECONDS} s; the logs end:\n{logs}")
            time.sleep(0.02)

    def _sees_all(self, node: ClusterNode) -> bool:
        lines = node.command_of_cluster("INFO").decode().splitlines()
        wanted = {
            "cluster_state:ok",
            f"cluster_slots_ok:{SLOTS}",
            f"cluster_known_nodes:{len(self.nodes)}",
        }
        return wanted <= set(lines)

    def node_of(self, key: str | bytes) -> ClusterNode:
        """The node that serves the key's slot, by the word of the nodes themselves."""
        slot = key_slot(key.encode() if isinstance(key, str) else key)
        for node in self.nodes:
            for begin, end, *_ in self._own_slots(node):
                if begin <= slot <= end:
                    return node
        raise ServerFailed(f"no node serves slot {slot}")

    def _own_slots(self, node: ClusterNode) -> list[tuple[int, int]]:
        ranges = node.command_of_cluster("SLOTS")
        return [(begin, end) for begin, end, primary, *_ in ranges if primary[2].decode() == node.id]

    def move_slot(self, slot: int, source: ClusterNode, target: ClusterNode, *, finish: bool) -> None:
        """Move a slot, or only begin to: then `source` says ASK for the keys it lacks, until this is called
        again with `finish`. In between, `migrate` moves keys.
        """
        target.command_of_cluster("SETSLOT", slot, "IMPORTING", source.id)
        source.command_of_cluster("SETSLOT", slot, "MIGRATING", target.id)
        if not finish:
            return
        while self.migrate(slot, source, target):
            pass
        for node in (target, source, *(each for each in self.nodes if each not in (source, target))):
            node.command_of_cluster("SETSLOT", slot, "NODE", target.id)

    def migrate(self, slot: int, source: ClusterNode, target: ClusterNode, count: int = 100) -> list[bytes]:
        """Move up to `count` keys of a slot whose move has begun; which ones is the server's choice."""
        keys: list[bytes] = source.command_of_cluster("GETKEYSINSLOT", slot, count)
        self.migrate_keys(keys, source, target)
        return keys

    def migrate_keys(self, keys: list[bytes], source: ClusterNode, target: ClusterNode) -> None:
        """Move just these keys of a slot whose move has begun."""
        if keys:
            with source.client() as raw:
                raw.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 10_000, "KEYS", *keys)

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def close(self) -> None:
        """Stop it for good."""
        for node in self.nodes:
            node.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

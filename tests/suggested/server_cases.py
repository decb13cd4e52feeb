"""Errors that a real server brings about: stopped, stuck, full, demoted, half-configured, or cut off."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import redis

from servers.certificates import make_certificates
from servers.postgres import PostgresServer
from servers.process import free_port
from servers.prometheus import Pushgateway
from servers.redis import ClusterNode, RedisServer
from tests.cli.conftest import density
from tests.suggested.stage import KEY, NAMESPACE, SECRET, Fault, Stage


@dataclass
class Servers:
    """A Redis that the cases may configure and stop; of a Postgres and a Pushgateway they are clients."""

    redis: RedisServer
    postgres: PostgresServer
    gateway: Pushgateway

    def fresh(self) -> RedisServer:
        """The Redis, running and empty."""
        if not self.redis.running:
            self.redis.start()
        with self.redis.client() as raw:
            raw.flushall()
        return self.redis


ServerCase = Callable[[Stage, Servers], Iterator[Fault]]
CASES: list[tuple[str, ServerCase]] = []


def case(error: str) -> Callable[[ServerCase], ServerCase]:
    """Register a case: as for local ones, with servers."""

    def register(function: ServerCase) -> ServerCase:
        CASES.append((error, function))
        return function

    return register


def commit(stage: Stage) -> list[str]:
    """The words of a commit of an odd key."""
    return ["commit", "--", f"{KEY}={stage.save('c.npy', density(4))}"]


@contextmanager
def configured(server: RedisServer, **config: str) -> Iterator[None]:
    """The server with these settings (underscores for dashes), put back afterwards."""
    with server.client() as raw:
        names = {name.replace("_", "-"): value for name, value in config.items()}
        before = {name: raw.config_get(name)[name] for name in names}
        for name, value in names.items():
            raw.config_set(name, value)
    try:
        yield
    finally:
        with server.client() as raw:
            for name, value in before.items():
                raw.config_set(name, value)


@case("AccessDenied")
def a_wrong_password(stage: Stage, servers: Servers) -> Iterator[Fault]:
    port = servers.postgres.port
    stage.on(f"postgresql://postgres:{SECRET}@127.0.0.1:{port}/postgres")
    yield Fault(["ls"])


@case("TlsFailure")
def a_certificate_that_is_not_trusted(stage: Stage, servers: Servers) -> Iterator[Fault]:
    with RedisServer(stage.folder / "tls", tls=True) as server:
        others = stage.folder.parent / "ca"
        others.mkdir()
        stage.on(f"{server.url}?ssl_ca_certs={make_certificates(others).ca}")
        yield Fault(["ls"])


@case("UnsafeServer")
def a_server_that_evicts(stage: Stage, servers: Servers) -> Iterator[Fault]:
    stage.on(servers.fresh().url).ok("init")
    with configured(servers.redis, maxmemory_policy="allkeys-lru"):
        yield Fault(commit(stage))


@case("StoreUnavailable")
def a_server_that_is_stopped(stage: Stage, servers: Servers) -> Iterator[Fault]:
    stage.on(f"redis://127.0.0.1:{free_port()}/0")
    yield Fault(["ls"])


@case("StoreUnavailable")
def more_durability_than_is_promised(stage: Stage, servers: Servers) -> Iterator[Fault]:
    stage.on(servers.fresh().url).ok("init")
    yield Fault(["commit", "--require-durability", "fsync", *commit(stage)[1:]])


@case("StoreBusy")
def a_script_that_does_not_end(stage: Stage, servers: Servers) -> Iterator[Fault]:
    server = servers.fresh()
    stage.on(server.url).ok("init")
    with configured(server, busy_reply_threshold="5"):

        def forever() -> None:
            with server.client() as raw:
                try:
                    raw.eval("while true do end", 0)
                except redis.RedisError:
                    return

        runner = threading.Thread(target=forever)
        runner.start()
        with server.client() as raw:
            until(lambda: _is_busy(raw))

            def end() -> None:
                raw.script_kill()
                runner.join()

            yield Fault(commit(stage), mend=end)
    assert stage.ok("-o", "json", "doctor").code == 0


def _is_busy(raw: redis.Redis) -> bool:
    try:
        raw.ping()
    except redis.exceptions.ResponseError as exc:
        return "BUSY" in str(exc)
    return False


@case("StoreLoading")
def a_server_that_reads_its_data(stage: Stage, servers: Servers) -> Iterator[Fault]:
    config = {"save": "900 1", "loading-process-events-interval-bytes": "1024"}
    with RedisServer(stage.folder / "loading", config=config) as server:
        with server.client() as raw:
            raw.set("ballast", b"x" * 2_000_000)
            for number in range(400):
                raw.set(f"ballast:{number}", b"x" * 1000)
            raw.save()
        server.kill()
        server.config["key-load-delay"] = "20000"
        server.ready = "Server initialized"  # type: ignore[misc]
        server.start()
        stage.on(server.url)
        yield Fault(["ls"], twice=False)


@case("ClusterDown")
def a_cluster_without_slots(stage: Stage, servers: Servers) -> Iterator[Fault]:
    config = {"cluster-enabled": "yes", "cluster-config-file": "nodes.conf"}
    with ClusterNode(stage.folder / "node", config=config) as node:
        stage.on(f"redis+cluster://127.0.0.1:{node.port}")
        yield Fault(["ls"], twice=False)


@case("NotPrimary")
def a_replica(stage: Stage, servers: Servers) -> Iterator[Fault]:
    stage.on(servers.fresh().url).ok("init")
    with servers.redis.client() as raw:
        raw.replicaof("127.0.0.1", free_port())
        try:
            yield Fault(commit(stage), mend=lambda: raw.replicaof("NO", "ONE"), twice=False)
        finally:
            raw.replicaof("NO", "ONE")
    assert stage(*commit(stage)).code == 0


@case("TooFewReplicas")
def a_server_without_its_replica(stage: Stage, servers: Servers) -> Iterator[Fault]:
    stage.on(servers.fresh().url).ok("init")
    with configured(servers.redis, min_replicas_to_write="1"):
        yield Fault(commit(stage))


@case("WritesStopped")
def a_server_that_cannot_save(stage: Stage, servers: Servers) -> Iterator[Fault]:
    with RedisServer(stage.folder / "unsaved", config={"save": "900 1"}) as server:
        stage.on(server.url).ok("init")
        in_its_way = server.folder / "data" / "dump.rdb"
        in_its_way.mkdir()
        try:
            with server.client() as raw:
                raw.bgsave()
                until(lambda: raw.info("persistence")["rdb_last_bgsave_status"] == "err")
            yield Fault(commit(stage))
        finally:
            in_its_way.rmdir()


@case("StoreFull")
def a_server_whose_memory_is_full(stage: Stage, servers: Servers) -> Iterator[Fault]:
    stage.on(servers.fresh().url).ok("init")
    with configured(servers.redis, maxmemory="1"):
        yield Fault(commit(stage))


@case("StoreDamaged")
def a_head_that_is_gone(stage: Stage, servers: Servers) -> Iterator[Fault]:
    stage.on(servers.fresh().url).ok("init")
    stage.put()
    with servers.redis.client() as raw:
        raw.delete(f"somactl:{{{NAMESPACE}}}:head")
    yield Fault(["ls"])
    assert stage.ok("-o", "json", "verify-psd", "--all").json["valid"] == 1


@case("NamespaceNotFound")
def a_database_that_was_never_set_up(stage: Stage, servers: Servers) -> Iterator[Fault]:
    url = servers.postgres.create_database()
    try:
        stage.on(url)
        yield Fault(commit(stage))
        assert stage(*commit(stage)).code == 0
    finally:
        servers.postgres.drop_database(url)


@case("KeyNotFound")
def a_deleted_key_on_postgres(stage: Stage, servers: Servers) -> Iterator[Fault]:
    url = servers.postgres.create_database()
    try:
        stage.on(url).ok("init")
        stage.put()
        stage.ok("rm", "--", KEY)
        yield Fault(["show", "--", KEY])
        stage.ok("show", "--", KEY)
    finally:
        servers.postgres.drop_database(url)


@case("OutcomeUnknown")
def a_reply_that_is_lost(stage: Stage, servers: Servers) -> Iterator[Fault]:
    stage.on(servers.fresh().url).ok("init")
    with cut_after(servers.redis.port, b"EVALSHA") as (port, heal):
        stage.on(f"redis://127.0.0.1:{port}/0")
        yield Fault(["commit", "--commit-id", "-night:7", *commit(stage)[1:]], mend=heal, twice=False)
        state = stage("-o", "json", "status", "--", "-night:7").json["commit"]["state"]
        assert state in ("committed", "aborted")


@case("StoreUnavailable")
def a_cache_of_another_incarnation(stage: Stage, servers: Servers) -> Iterator[Fault]:
    url = servers.postgres.create_database()
    try:
        stage.on(url).ok("init")
        stage.env["SOMACTL_CACHE"] = servers.fresh().url
        stage.put()
        del stage.env["SOMACTL_CACHE"]
        stage.ok("init", "--new-incarnation")
        stage.env["SOMACTL_CACHE"] = servers.redis.url
        yield Fault(["cache-warm"])
        stage.ok("cache-warm")
    finally:
        servers.postgres.drop_database(url)


@contextmanager
def cut_after(port: int, word: bytes) -> Iterator[tuple[int, Callable[[], None]]]:
    """A port before another: what answers `word` is lost with the connection, until it is healed."""
    listener = socket.create_server(("127.0.0.1", 0))
    sound = threading.Event()

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=connect, args=(client,), daemon=True).start()

    def connect(client: socket.socket) -> None:
        cut = threading.Event()
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            answers = threading.Thread(target=pump, args=(server, client, cut, False), daemon=True)
            answers.start()
            pump(client, server, cut, True)
            answers.join()

    def pump(source: socket.socket, target: socket.socket, cut: threading.Event, asks: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if asks and word in data and not sound.is_set():
                    cut.set()
                if asks or not cut.is_set():
                    target.sendall(data)
                elif not asks:
                    break
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1], sound.set
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait for a condition of a server; fails where it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the server did not get there"
        time.sleep(0.02)

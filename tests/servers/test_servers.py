"""The servers of the tests do what the fault tests trust them to do."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis
from redis.crc import key_slot

from servers import process, watchdog
from servers.pgbouncer import PgBouncer
from servers.postgres import PostgresServer
from servers.process import ServerFailed, ServerMissing
from servers.redis import RedisCluster, RedisServer

TESTS = Path(__file__).resolve().parents[1]
DURABLE = {"appendonly": "yes", "appendfsync": "always"}
STARTER = """
import sys
from pathlib import Path
from servers.postgres import PostgresServer
from servers.redis import RedisServer

folder = Path(sys.argv[1])
paused = RedisServer(folder / "paused").start()
paused.pause()
for server in (PostgresServer(folder).start(), RedisServer(folder).start(), paused):
    print(server.pid, server.runtime)
print("started", flush=True)
sys.stdin.read()
"""

OUTLIVED = """
import ctypes, subprocess, sys, threading, time

def work():
    child = subprocess.Popen(["sleep", "600"])
    print(child.pid, flush=True)
    sys.stdin.read()

threading.Thread(target=work).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[sys.argv[1]], 0)  # ends this thread alone
"""
"""A process whose first thread has ended, while another one works, and has a child."""


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


async def ask(url: str, question: str = "SELECT 1", **options: object) -> object:
    connection = await asyncpg.connect(url, **options)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


def test_a_server_stops_and_starts_on_the_same_port(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        port = server.port
        assert port in process.PORTS
        assert listens(port)
        server.stop()
        assert not listens(port)
        assert server.start().port == port
        assert server.restart().port == port
        assert listens(port)
        runtime = server.runtime
    assert not listens(port)
    assert not runtime.exists()
    assert server.log.read_text().count("Ready to accept connections") == 3


def test_a_server_that_is_not_installed_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerMissing, match=r"^redis-server is not installed: run `make servers`$"):
        RedisServer(tmp_path)


def test_a_server_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match="Bad directive or wrong number of arguments"):
        RedisServer(tmp_path, config={"nonsense": "1"}).start()


@pytest.mark.parametrize("kind", [RedisServer, PostgresServer])
def test_a_port_that_is_taken_is_given_up(
    kind: type[RedisServer | PostgresServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RedisServer(tmp_path / "first") as first:
        ports = iter([first.port, process.free_port()])
        monkeypatch.setattr(process, "free_port", lambda: next(ports))
        with kind(tmp_path / "second") as second:
            assert second.port != first.port
        assert "Address already in use" in second.log.read_text()


def test_a_server_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    with server, server.client() as raw:
        assert raw.ping()


def test_servers_die_with_the_tests_however_those_die(tmp_path: Path) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path)],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with starter:
        assert starter.stdout is not None
        words = [starter.stdout.readline().split() for _ in range(4)]
        assert words.pop() == ["started"]
        starter.kill()
    pids = [pid for word, _ in words for pid in watchdog.tree(int(word))]
    watchdog.wait_until_gone(pids, seconds=30)
    deadline = time.monotonic() + 30
    while any(Path(folder).exists() for _, folder in words):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_redis_killed_keeps_what_it_wrote_only_where_told_to(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "a", config=DURABLE) as kept, RedisServer(tmp_path / "b") as lost:
        for server, value in ((kept, b"value"), (lost, None)):
            with server.client() as raw:
                raw.set("key", "value")
            server.kill()
            assert not listens(server.port)
            server.start()
            with server.client() as raw:
                assert raw.get("key") == value
                assert raw.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_a_paused_redis_answers_later(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, server.client(socket_timeout=0.2, retry=None) as raw:
        raw.ping()
        server.pause()
        with pytest.raises(redis.TimeoutError):
            raw.ping()
        server.resume()
        assert raw.ping()
        server.pause()  # close resumes it


def test_redis_takes_users_and_a_socket(tmp_path: Path) -> None:
    users = ["default off", "reader on >secret ~* &* +@read +ping"]
    with RedisServer(tmp_path, config={"user": users}) as server:
        with server.client() as raw, pytest.raises(redis.AuthenticationError):
            raw.ping()
        with redis.Redis.from_url(server.unix_url, username="reader", password="secret") as raw:
            assert raw.ping()
            with pytest.raises(redis.exceptions.NoPermissionError):
                raw.set("key", "value")


def test_redis_speaks_tls_and_is_no_localhost(tmp_path: Path) -> None:
    with RedisServer(tmp_path, tls=True) as server:
        assert server.url == f"rediss://127.0.0.1:{server.port}/0"
        with server.client() as raw:
            assert raw.ping()
        with (
            server.client(ssl_ca_certs=None) as raw,
            pytest.raises(redis.ConnectionError, match="CERTIFICATE"),
        ):
            raw.ping()
        context = ssl.create_default_context(cafile=server.ca_file)
        with (
            socket.create_connection(("127.0.0.1", server.port)) as plain,
            pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"),
        ):
            context.wrap_socket(plain, server_hostname="localhost")


def test_a_cluster_forms_and_moves_a_slot(tmp_path: Path) -> None:
    slot = key_slot(b"a")
    with RedisCluster(tmp_path) as cluster, cluster.client() as raw:
        raw.mset_nonatomic({"{a}1": "x", "{a}2": "y", "b": "z"})
        source = cluster.node_of("{a}1")
        target = next(node for node in cluster.nodes if node is not source)
        cluster.move_slot(slot, source, target, finish=False)
        assert cluster.node_of("{a}1") is source
        (moved,) = cluster.migrate(slot, source, target, count=1)
        with source.client() as at_source:
            with pytest.raises(redis.ResponseError, match=f"^(ASK )?{slot} 127.0.0.1:{target.port}$"):
                at_source.get(moved)
            with pytest.raises(redis.ResponseError, match=r"TRYAGAIN|Multiple keys request"):
                at_source.mget("{a}1", "{a}2")
        cluster.move_slot(slot, source, target, finish=True)
        assert cluster.node_of("{a}1") is target
        assert raw.mget("{a}1", "{a}2") == [b"x", b"y"]
        target.restart()
        cluster.wait_until_ok()
        assert cluster.node_of("{a}1") is target


async def test_postgres_asks_for_the_password(tmp_path: Path) -> None:
    with PostgresServer(tmp_path) as server:
        assert await ask(server.url(), "SELECT current_user") == server.user
        with pytest.raises(asyncpg.InvalidPasswordError):
            await ask(server.url().replace(server.password, "wrong"))


async def test_databases_are_made_inside_a_loop_and_dropped_under_a_client(tmp_path: Path) -> None:
    with PostgresServer(tmp_path) as server:
        urls = {server.create_database() for _ in range(3)}
        assert len(urls) == 3
        url = urls.pop()
        connection = await asyncpg.connect(url)
        try:
            assert (
                await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
            )
            server.drop_database(url)
            with pytest.raises(
                (asyncpg.PostgresConnectionError, ConnectionError, asyncpg.AdminShutdownError)
            ):
                await connection.fetchval("SELECT 1")
        finally:
            connection.terminate()
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await ask(url)


def test_postgres_killed_keeps_what_it_committed(tmp_path: Path) -> None:
    with PostgresServer(tmp_path, settings={"fsync": "on"}) as server:
        server.run("CREATE TABLE kept AS SELECT 42 AS answer")
        tree = watchdog.tree(server.pid)
        assert len(tree) > 3
        server.kill()
        assert not listens(server.port)
        server.start()
        assert server.run("SELECT answer FROM kept") == [(42,)]
        assert server.run("SHOW fsync") == [("on",)]
        assert "was not properly shut down" in server.log.read_text()


async def test_a_paused_postgres_answers_later(tmp_path: Path) -> None:
    with PostgresServer(tmp_path) as server:
        connection = await asyncpg.connect(server.url())
        server.pause()
        answer = asyncio.ensure_future(connection.fetchval("SELECT 1"))
        done, _ = await asyncio.wait([answer], timeout=0.2)
        assert not done
        server.resume()
        assert await answer == 1
        await connection.close()


async def test_postgres_speaks_tls_and_nothing_else(tmp_path: Path) -> None:
    with PostgresServer(tmp_path, tls=True) as server:
        trusting = ssl.create_default_context(cafile=server.ca_file)
        encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        assert await ask(server.url(), encrypted, ssl=trusting) is True
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="no encryption"):
            await ask(server.url(), ssl=False)
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(server.url(), ssl=ssl.create_default_context())


async def test_pgbouncer_lends_a_connection_for_one_transaction(tmp_path: Path) -> None:
    with PostgresServer(tmp_path) as postgres, PgBouncer(tmp_path, postgres) as pgbouncer:
        pgbouncer.settings["default_pool_size"] = "1"
        pgbouncer.restart()
        database = urlsplit(postgres.create_database()).path.removeprefix("/")
        url = pgbouncer.url(database)
        assert await ask(url, "SELECT current_database()", statement_cache_size=0) == database
        clients = [await asyncpg.connect(url, statement_cache_size=0) for _ in range(2)]
        # By sessions, the second client would wait for the first to leave.
        backends = {await client.fetchval("SELECT pg_backend_pid()", timeout=10) for client in clients}
        assert len(backends) == 1
        for client in clients:
            await client.close()
        with pytest.raises(asyncpg.PostgresError, match="SASL"):
            await ask(url.replace(postgres.password, "wrong"))


def test_an_interrupt_is_for_the_tests_alone(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        assert os.getpgid(server.pid) != os.getpgid(0)


def test_a_process_is_gone_when_its_last_thread_has_ended() -> None:
    """Else a test reads what a killed process wrote a moment before its last write shows."""
    with subprocess.Popen(
        [sys.executable, "-c", OUTLIVED, platform.machine()], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        stat = Path(f"/proc/{process.pid}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        with pytest.raises(TimeoutError):
            watchdog.wait_until_gone([process.pid], seconds=0.1)
        assert watchdog.tree(process.pid) == [process.pid, child]
        watchdog.wait_until_gone(watchdog.kill_tree(process.pid))
        assert process.wait() == -signal.SIGKILL

"""Whatever a cache answered is said to be its copy, and what differs from the store is found."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
from pathlib import Path

import asyncpg
import pytest

from servers.postgres import PostgresServer
from servers.redis import RedisServer
from somactl.store.redis import RedisStore
from tests.cli.conftest import SOMACTL, Shell, density, environment

MODES = ("table", "json", "ndjson")


@pytest.fixture
def env(shell: Shell, redis_server: RedisServer, postgres_server: PostgresServer):  # type: ignore[no-untyped-def]
    url = postgres_server.create_database()
    redis_server.client().flushall()
    shell.save("a.npy", density(4, seed=1))
    shell.save("b.npy", density(4, seed=2))
    names = {"SOMACTL_STORE": url, "SOMACTL_CACHE": redis_server.url, "SOMACTL_RETRY_SECONDS": "0.5"}
    shell.ok("init", env=names)
    shell.ok("commit", "a=a.npy", env=names)
    yield names
    postgres_server.drop_database(url)


def test_a_copy_is_said_to_be_one_and_never_contradicts_silently(shell: Shell, env: dict[str, str]) -> None:
    for mode in MODES:
        for words in (["get", "a", "--as", "json"], ["show", "a"]):
            result = shell.ok(*words, "-o", mode, env=env)
            if mode == "table":
                assert "redis cache" in result.text + result.err
                assert " s old" in result.text + result.err
            else:
                report = result.lines[-1] if mode == "ndjson" else result.json
                assert report["served_by"] == "redis cache"
                assert report["age"] >= 0
    assert shell.ok("get", "a", "-o", "json", "--from", "authority", env=env).json["served_by"] == "postgres"
    checked = shell.ok("show", "a", "--check", "-o", "json", env=env).json
    assert (checked["served_by"], checked["age"]) == ("postgres", None)
    # Something commits without naming the cache.
    plain = {name: value for name, value in env.items() if name != "SOMACTL_CACHE"}
    shell.ok("commit", "a=b.npy", env=plain)
    assert shell.ok("ls", "-o", "json", env=env).json["keys"][0]["version"] == 2
    shown = shell.ok("show", "a", "-o", "json", env=env).json
    assert (shown["key"]["version"], shown["newest"]) == (1, 2)
    assert "version 2" in shown["warnings"][0]
    assert shell.ok("show", "a", "--check", "-o", "json", env=env).json["key"]["version"] == 2
    audit = shell("verify-psd", "--all", "--from", "both", "-o", "json", env=env)
    assert (audit.code, audit.json["stale"], audit.json["valid"]) == (4, 1, 2)
    (stale,) = audit.json["results"]
    assert " s old" in stale["error"]
    told = shell("doctor", "-o", "json", env=env)
    (copies,) = [f for f in told.json["findings"] if f["check"] == "copies"]
    assert 4 in told.json["codes"]
    assert (copies["status"], " s old" in copies["detail"]) == ("warning", True)
    shell.ok("rm", "a", env=plain)
    shown = shell.ok("show", "a", "-o", "json", env=env).json
    assert shown["newest"] == 0
    shell("cache-warm", "--reconcile", env=env)
    assert shell("show", "a", env=env).code == 15


async def test_a_cache_that_outlived_its_namespace_is_noticed(shell: Shell, env: dict[str, str]) -> None:
    """The database was restored without somactl's schema, and readers are still served."""
    raw = await asyncpg.connect(env["SOMACTL_STORE"])
    await raw.execute("DROP SCHEMA somactl CASCADE")
    await raw.close()
    told = shell("doctor", "-o", "json", env=env)
    wrong = {f["check"] for f in told.json["findings"] if f["status"] == "problem"}
    assert told.code == 3
    assert {"migrations", "incarnation"} <= wrong
    assert shell("init", "--new-incarnation", env=env).code == 15


async def test_waiting_is_visible_and_names_who_holds_the_lock(shell: Shell, env: dict[str, str]) -> None:
    holder = await asyncpg.connect(env["SOMACTL_STORE"], server_settings={"application_name": "a stuck job"})
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("SELECT 1 FROM somactl.namespace FOR UPDATE")
    master, terminal = pty.openpty()
    waiting = subprocess.Popen(
        [SOMACTL, "commit", "a=b.npy"], cwd=shell.folder, env=environment() | env,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    said = ""
    while "a stuck job" not in said:
        said += (await asyncio.to_thread(os.read, master, 4096)).decode()
    assert "waiting for the lock" in said
    names = await holder.fetch("SELECT application_name FROM pg_stat_activity")
    assert f"somactl commit {waiting.pid}" in {row[0] for row in names}
    await transaction.rollback()
    await holder.close()
    assert await asyncio.to_thread(waiting.wait) == 0
    os.close(master)


def test_sqlite_says_which_process_it_waits_for(shell: Shell) -> None:
    shell.commit("a", density(2))
    holder = subprocess.Popen(
        ["python3", "-c", "import sqlite3, sys\nc = sqlite3.connect('somactl.db', isolation_level=None)\n"
         "c.execute('BEGIN IMMEDIATE')\nprint('held', flush=True)\nsys.stdin.read()"],
        cwd=shell.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    holder.stdout.readline()
    master, terminal = pty.openpty()
    waiting = shell.begin("commit", "a=value.npy", stdin=subprocess.DEVNULL, stderr=terminal)
    os.close(terminal)
    said = ""
    while f"process {holder.pid}" not in said:
        said += os.read(master, 4096).decode()
    assert "waiting for the lock" in said
    holder.communicate()
    waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    os.close(master)


async def test_a_connection_to_redis_has_a_name(redis_server: RedisServer) -> None:
    store = RedisStore(redis_server.url)
    await store.namespaces()
    with redis_server.client() as raw:
        assert "somactl" in {client["name"] for client in raw.client_list()}
        raw.execute_command("ACL", "SETUSER", "nameless", "on", ">pw", "~*", "+@all", "-client|setname")
    await store.close()
    other = RedisStore(redis_server.url.replace("//", "//nameless:pw@"))
    await other.namespaces()
    await other.close()
    with redis_server.client() as raw:
        raw.execute_command("ACL", "DELUSER", "nameless")


def test_reports_name_the_place_and_no_secret(shell: Shell, env: dict[str, str], tmp_path: Path) -> None:
    for words in (["ls"], ["doctor"], ["commit", "a=b.npy"], ["show", "a"]):
        report = shell(*words, "-o", "json", env=env).json
        assert report["address"].startswith("postgresql://")
        assert report["address"].rpartition("/")[2] == env["SOMACTL_STORE"].rpartition("/")[2]
        password = env["SOMACTL_STORE"].partition("://")[2].partition("@")[0].partition(":")[2]
        assert password
        assert password not in report["address"]
    assert "at postgresql://" in shell.ok("commit", "a=a.npy", env=env).text
    shell.write("old.json", "[[1.0, 0.0], [0.0, 0.0]]")
    assert "address" not in shell("migrate-json", "old.json", "--dry-run", "-o", "json").text.replace(
        '"address": ""', ""
    )


def test_a_default_database_that_comes_into_being_is_announced(shell: Shell) -> None:
    shell.save("a.npy", density(2))
    shell("ls")
    assert "created" in shell.ok("commit", "a=a.npy").err
    assert "created" not in shell.ok("commit", "a=a.npy").err
    assert "created" not in shell.ok("commit", "a=a.npy", "--store", "sqlite:///named.db").err
    (shell.folder / "somactl.db").unlink()
    assert shell.ok("commit", "a=a.npy", "--quiet").err == ""

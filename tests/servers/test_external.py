"""A developer's own servers are used as named, and their data is not touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from servers.external import ExternalPostgres, ExternalRedis, ExternalRedisCluster
from servers.postgres import PostgresServer
from servers.process import ServerFailed
from servers.redis import RedisCluster, RedisServer

ROOT = Path(__file__).resolve().parents[2]
TESTS = """
import os
import pytest


@pytest.mark.parametrize("number", range(4))
def test_uses_it(redis_server, number):
    assert not [name for name in os.environ if name.startswith("SOMACTL_")]
    with redis_server.client() as raw:
        raw.set(f"key {number}", "value")
        raw.select(0)
        raw.hset("used", number, redis_server.url)
"""


def run_tests(folder: Path, text: str, *arguments: str, **variables: str) -> tuple[int, str]:
    """The exit code and output of these tests, run under the conftest.py of ours."""
    shutil.copy(ROOT / "tests" / "conftest.py", folder)
    folder.joinpath("test_it.py").write_text(text)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command: list[str | Path] = [sys.executable, "-m", "pytest", "-q", "-c", ROOT / "pyproject.toml"]
    command += ["-p", "no:cacheprovider", *arguments, "--basetemp", folder / "temp", folder / "test_it.py"]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def test_each_worker_uses_a_database_of_the_named_redis(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, server.client() as raw:
        raw.set("mine", "precious")
        url = server.url.removesuffix("0")
        code, output = run_tests(tmp_path, TESTS, "-n", "2", SOMACTL_TEST_REDIS_URL=f"{url}3")
        assert code == 0, output
        used = raw.hgetall("used")
        assert len(used) == 4
        assert {value.decode() for value in used.values()} == {f"{url}3", f"{url}4"}
        assert raw.info("keyspace").keys() == {"db0"}
        assert raw.get("mine") == b"precious"


def test_a_redis_with_data_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, server.client() as raw:
        raw.set("mine", "precious")
        for url in (server.url, server.unix_url):
            with pytest.raises(ServerFailed, match="database 0 of SOMACTL_TEST_REDIS_URL holds 1 key"):
                ExternalRedis(url).__enter__()
            with ExternalRedis(url, 1) as second, second.client() as other:
                other.set("a", "b")
                assert raw.info("keyspace").keys() == {"db0", "db1"}
        assert raw.info("keyspace").keys() == {"db0"}


def test_a_cluster_with_data_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    with RedisCluster(tmp_path) as cluster:
        with ExternalRedisCluster(cluster.url) as external, external.client() as raw:
            raw.mset_nonatomic({"a": "1", "b": "2", "c": "3"})
            with pytest.raises(
                ServerFailed, match="the cluster of SOMACTL_TEST_REDIS_CLUSTER_URL holds 3 keys"
            ):
                ExternalRedisCluster(cluster.url).__enter__()
        with cluster.client() as raw:
            assert raw.dbsize(target_nodes="primaries") == 0


def test_databases_left_on_the_named_postgres_are_dropped(tmp_path: Path) -> None:
    with PostgresServer(tmp_path) as server:
        with ExternalPostgres(server.url() + "?sslmode=disable") as external:
            url = external.create_database()
            assert urlsplit(url).query == "sslmode=disable"
            made = "SELECT datname FROM pg_database WHERE datname LIKE 'somactl_test_%'"
            assert external.run(made) == [(urlsplit(url).path[1:],)]
        assert server.run(made) == []
        with pytest.raises(AssertionError, match="postgres was not made by create_database"):
            server.drop_database(server.url())


def test_a_failure_shows_what_the_servers_said(tmp_path: Path) -> None:
    text = "def test_it(redis_server):\n    with redis_server.client() as raw:\n        assert raw.get('x')\n"
    code, output = run_tests(tmp_path, text)
    assert code == 1
    assert "redis-server on port" in output
    assert "Ready to accept connections" in output


@pytest.mark.source
def test_the_script_names_what_is_missing_where_it_cannot_install(tmp_path: Path) -> None:
    script = ROOT / ".ci" / "servers"
    found = subprocess.run([script], capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    bash = shutil.which("bash")
    assert bash is not None
    missing = subprocess.run([bash, script], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert missing.returncode == 1
    assert "the tests need programs that are not here" in missing.stderr
    assert "redis-server" in missing.stderr

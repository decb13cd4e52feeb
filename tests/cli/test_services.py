"""The commands on real servers, as an operator meets them: healthy, broken, or gone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from servers.postgres import PostgresServer
from servers.redis import RedisServer
from somactl.cli.command import _degraded
from somactl.store.contract import Degradation, PastDegradation
from tests.cli.conftest import Result, Shell, density

SECRET = "hunter2-hunter2"


class Services:
    """A shell whose store is a new database of Postgres, with a Redis of its own as the cache."""

    def __init__(self, shell: Shell, store: str, redis: RedisServer) -> None:
        self.shell = shell
        self.redis = redis
        self.env = {"SOMACTL_STORE": store, "SOMACTL_CACHE": redis.url, "SOMACTL_RETRY_SECONDS": "0.5"}

    def __call__(self, *words: str, **more: str) -> Result:
        return self.shell(*words, env=self.env | more)

    def ok(self, *words: str, **more: str) -> Result:
        result = self(*words, **more)
        assert result.code == 0, (result.err, result.text)
        return result


@pytest.fixture
def services(shell: Shell, tmp_path: Path, postgres_server: PostgresServer) -> Iterator[Services]:
    url = postgres_server.create_database()
    with RedisServer(tmp_path / "redis", config={"maxmemory": "200mb"}) as redis:
        yield Services(shell, url, redis)
    postgres_server.drop_database(url)


@pytest.fixture
def filled(services: Services) -> Services:
    services.ok("init")
    for key, seed in (("a", 1), ("b", 2)):
        file = services.shell.save(f"{key}.npy", density(8, seed=seed))
        services.ok("commit", f"{key}={file}")
    return services


def test_the_main_job_on_postgres_with_a_cache(filled: Services) -> None:
    report = filled.ok("commit", "a=b.npy", "--expect", "1", "-o", "json").json
    assert report["store"] == "postgres+redis"
    assert {s["store"]: s["durability"] for s in report["stores"]} == {
        "postgres": "memory",  # the test server runs with fsync off, and the receipt says so
        "redis cache": "memory",
    }
    got = filled.ok("get", "a", "-o", "json").json
    assert (got["version"], got["served_by"], got["degraded"]) == (3, "redis cache", False)
    assert [key["key"] for key in filled.ok("ls", "-o", "json").json["keys"]] == ["a", "b"]
    assert filled("commit", "a=b.npy", "--expect", "1").code == 12
    assert filled.ok("verify-psd", "--all", "--from", "both", "-o", "json").json["valid"] == 4


def test_the_service_s_own_variables_name_store_and_cache(filled: Services) -> None:
    env = {"POSTGRES_URL": filled.env["SOMACTL_STORE"], "REDIS_URL": filled.redis.url}
    got = filled.shell("get", "a", "-o", "json", env=env)
    assert (got.code, got.json["served_by"], got.json["store"]) == (0, "redis cache", "postgres+redis")


def test_without_the_cache_everything_goes_on_and_says_so(filled: Services) -> None:
    filled.redis.stop()
    got = filled("get", "a", "--as", "npy", "--to", "out.npy", "-o", "json")
    assert got.code == 4
    assert (got.json["degraded"], got.json["served_by"]) == (True, "postgres")
    (part,) = got.json["degraded_services"]
    assert part["service"] == "redis cache"
    assert np.array_equal(np.load(filled.shell.folder / "out.npy"), density(8, seed=1))
    wrote = filled("commit", "a=b.npy", "-o", "json")
    assert (wrote.code, wrote.json["version"]) == (4, 3)
    assert [s["store"] for s in wrote.json["stores"]] == ["postgres"]
    raw = filled("get", "a")
    assert raw.code == 4
    assert raw.out[:4] == filled("get", "a").out[:4]
    assert b"degraded" not in raw.out
    assert "degraded: redis cache" in raw.err


def test_a_command_tells_what_is_degraded_and_what_was_while_it_ran() -> None:
    store = mock.Mock(
        degradations=(Degradation("redis cache", "open", "it is down; reads go to postgres"),),
        degraded_since_opened=(
            PastDegradation("redis cache", "it is down", 1.0, 3.0, 5),
            PastDegradation("redis cache", "its memory is full", 2.0, 2.0, 1),
        ),
    )
    assert [(part.breaker, part.detail) for part in _degraded(store)] == [
        ("open", "it is down; reads go to postgres"),
        ("closed", "its memory is full; it has recovered"),
    ]


def test_a_cache_that_comes_back_is_repaired(filled: Services) -> None:
    filled.redis.pause()
    try:
        assert filled("commit", "a=b.npy").code == 4
    finally:
        filled.redis.resume()
    measured = filled("cache-warm", "--reconcile", "--dry-run", "-o", "json")
    assert measured.code in (0, 3, 4)
    filled.ok("cache-warm", "--reconcile")
    got = filled.ok("get", "a", "-o", "json").json
    assert (got["version"], got["served_by"]) == (3, "redis cache")


def test_while_postgres_is_down_the_cache_serves_only_on_request(
    shell: Shell, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    with PostgresServer(tmp_path / "pg") as own, RedisServer(tmp_path / "redis") as redis:
        services = Services(shell, own.create_database(), redis)
        services.ok("init")
        services.ok("commit", f"a={shell.save('a.npy', density(8))}")
        own.stop()
        for form in ("get", "show"):
            stale = services(form, "a", "-o", "json", "--allow-stale")
            assert (stale.code, stale.json["served_by"], stale.json["degraded"]) == (4, "redis cache", True)
            assert stale.json["degraded_services"][0]["service"] == "postgres"
            assert stale.json["age"] >= 0
        told = services("get", "a", "--as", "json", "--allow-stale")
        assert (told.code, b"degraded" in told.out) == (4, False)
        assert "served by redis cache" in told.err
        assert "degraded: postgres" in told.err
        checked = services("show", "a", "--check", "-o", "json", "--allow-stale")
        assert (checked.code, checked.json["verdict"]["status"]) == (4, "valid")
        for words in (["show", "a"], ["show", "a", "--check"], ["get", "a", "--from", "authority"]):
            refused = services(*words, "-o", "json")
            assert refused.code == 13
            assert "--allow-stale" in refused.error["hint"]
        assert services("get", "never").code == 13
        assert services("commit", "a=a.npy").code == 13
        assert services("verify-psd", "--all").code == 13


def test_an_audit_reads_the_authority_and_fills_nothing(filled: Services) -> None:
    with filled.redis.client() as raw:
        raw.flushall()
        filled.ok("verify-psd", "--all")
        assert raw.dbsize() == 0
        held = filled("verify-psd", "--all", "--from", "cache", "-o", "json")
        assert (held.code, held.json["checked"]) == (4, 0)
        filled.ok("cache-warm")
        held = filled.ok("verify-psd", "--all", "--from", "cache", "-o", "json").json
        assert held["valid"] == 2
        assert filled("verify-psd", "never", "--from", "cache").code == 4


def test_from_cache_needs_a_cache(shell: Shell) -> None:
    assert shell("verify-psd", "--all", "--from", "cache").code == 2
    assert shell("cache-warm").code in (2, 10)


def test_a_dry_run_of_warming_writes_nothing(filled: Services) -> None:
    with filled.redis.client() as raw:
        raw.flushall()
        assert filled("cache-warm", "--dry-run").code == 0
        assert raw.dbsize() == 0


def test_a_new_incarnation_ends_what_the_cache_remembers(filled: Services) -> None:
    before = filled.ok("show", "a", "-o", "json").json["incarnation"]
    after = filled.ok("init", "--new-incarnation", "-o", "json").json["head"]["incarnation"]
    assert before != after
    got = filled.ok("get", "a", "-o", "json").json
    assert (got["served_by"], got["incarnation"]) == ("postgres", after)
    assert filled("commit", "a=b.npy", "--expect", f"{before}:1").code == 12


def test_doctor_on_healthy_services(filled: Services) -> None:
    report = filled("doctor", "-o", "json").json
    found = {(f["service"], f["check"]): f["status"] for f in report["findings"]}
    services = {service for service, _ in found}
    assert services == {"postgres", "redis cache"}
    for service in services:
        assert found[service, "reachable"] == "ok"
    assert found["postgres", "fsync"] == "problem"  # the test server's own setting
    assert report["code"] == 3


def test_doctor_names_the_dead_service_and_the_other_s_health(filled: Services) -> None:
    filled.redis.stop()
    result = filled("doctor", "-o", "json")
    found = {(f["service"], f["check"]): f for f in result.json["findings"]}
    assert result.code == 3  # Postgres without fsync outranks the unreachable cache
    assert 13 in result.json["codes"]
    assert found["redis cache", "reachable"]["status"] == "problem"
    assert found["redis cache", "reachable"]["advice"]
    assert found["postgres", "reachable"]["status"] == "ok"


def test_doctor_on_the_embedded_store(shell: Shell) -> None:
    assert shell.ok("doctor").text.count("sqlite") >= 1
    assert not list(shell.folder.iterdir())
    shell.commit("a", density(4))
    assert {f["status"] for f in shell.ok("doctor", "-o", "json").json["findings"]} == {"ok"}


@pytest.mark.parametrize(
    ("store", "code"),
    [
        (f"redis://client:{SECRET}@127.0.0.1:1/0", 13),
        (f"postgresql://client:{SECRET}@127.0.0.1:1/soma", 13),
        (f"redis+cluster://client:{SECRET}@127.0.0.1:1", 13),
        (f"redis://client:{SECRET}@127.0.0.1:1/x", 10),
        (f"ftp://client:{SECRET}@127.0.0.1/", 10),
    ],
)
def test_nothing_is_there_and_no_secret_is_told(shell: Shell, store: str, code: int) -> None:
    env = {"SOMACTL_STORE": store, "SOMACTL_RETRY_SECONDS": "0.2"}
    file = shell.save("a.npy", density(4))
    for words in (["ls"], ["commit", f"a={file}"], ["doctor"], ["init"], ["ls", "-o", "json"]):
        result = shell(*words, env=env)
        assert result.code == code, (words, result.err)
        assert SECRET not in result.text + result.err


def test_a_wrong_password_is_access_denied_and_not_told(
    shell: Shell, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    with RedisServer(tmp_path / "redis", config={"requirepass": "right"}) as redis:
        wrong = {
            "postgres": f"postgresql://somactl:{SECRET}@127.0.0.1:{postgres_server.port}/postgres",
            "database": postgres_server.url("nowhere"),
            "redis": f"redis://:{SECRET}@127.0.0.1:{redis.port}/0",
        }
        for store in wrong.values():
            result = shell("ls", "-o", "json", env={"SOMACTL_STORE": store})
            assert (result.code, result.error["error"]) == (10, "AccessDenied")
            assert result.error["runbook"] == "RUNBOOKS/access-denied.md"
            assert SECRET not in result.err
            assert postgres_server.password not in result.err


def test_a_server_store_is_never_made_by_accident(services: Services) -> None:
    file = services.shell.save("a.npy", density(4))
    result = services("commit", f"a={file}", "-o", "json")
    assert (result.code, result.error["error"]) == (15, "NamespaceNotFound")
    assert "somactl init" in (result.error["hint"] or "")


def test_a_redis_that_evicts_is_no_authority(shell: Shell, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis", config={"maxmemory-policy": "allkeys-lru"}) as redis:
        result = shell("init", "-o", "json", env={"SOMACTL_STORE": redis.url})
        assert (result.code, result.error["error"]) == (10, "UnsafeServer")


def test_two_caches_in_a_row_are_refused(shell: Shell) -> None:
    env = {"SOMACTL_STORE": "redis://127.0.0.1:1/0", "SOMACTL_CACHE": "redis://127.0.0.1:2/0"}
    assert shell("ls", env=env).code == 10
    assert shell("ls", env={"SOMACTL_CACHE": "memcached://127.0.0.1:2"}).code == 10
    assert os.path.exists(shell.folder)

"""What the pages of alerts are for, on real servers, and what is better once they were followed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import PIPE, Popen
from typing import Any

from somactl.core.envelope import serialize_matrix
from somactl.core.framing import peek
from somactl.store.cached import Fill
from somactl.store.contract import Entry
from somactl.store.redis.cache_entries import Names, fields
from somactl.store.sqlite import SqliteStore
from support.violation import put_violation
from tests.cli.conftest import density, with_smallest_eigenvalue
from tests.suggested.drills import Drill, drill, fails
from tests.suggested.server_cases import Servers, configured, until
from tests.suggested.stage import KEY, NAMESPACE, Stage

IN_THE_STORE = ("--file", "commit ", "cache-warm")
IN_THE_CACHE = ("--file", "commit ", "restore", "status")
A_REFUSAL = ("both", "cache-warm", "status", "restore")
FOUND = {"audit.json": {3}, "both.ndjson": {3}, "show --check": {3}}


@contextmanager
def both_servers(stage: Stage, servers: Servers) -> Iterator[str]:
    """A Postgres with a Redis before it, which hold a good matrix; the URL of the Postgres."""
    url = servers.postgres.create_database()
    stage.env["SFM_RHO_READ_TIMEOUT_MS"] = "5000"  # a machine that is busy is no fault here
    try:
        stage.on(url, servers.fresh().url).ok("init")
        stage.put(seed=1)
        stage.put("other", seed=2)
        yield url
    finally:
        servers.postgres.drop_database(url)


def newest_commit(stage: Stage) -> str:
    return str(stage.ok("-o", "json", "log", "--limit", "1").json["commits"][0]["commit_id"])


def versions(stage: Stage) -> dict[str, int]:
    return {row["key"]: row["version"] for row in stage.ok("-o", "json", "ls").json["keys"]}


def audit(stage: Stage, origin: str = "authority") -> Any:
    return stage("-o", "json", "verify-psd", "--all", "--from", origin).json


@drill("RHO_VIOLATION")
def a_violation_in_postgres(stage: Stage, servers: Servers) -> Iterator[Drill]:
    with both_servers(stage, servers) as url:
        put_violation(url, KEY, namespace=NAMESPACE)
        commit_id = newest_commit(stage)
        fails(stage, 3, "verify-psd", "--all")
        assert [
            each["store"] for each in audit(stage, "both")["results"] if each["outcome"] == "violated"
        ] == [None]
        yield Drill({"KEY": KEY, "N": "1", "COMMIT_ID": commit_id}, codes=FOUND, passed=IN_THE_STORE)
        assert audit(stage, "both")["psd_ok"] is True
        assert versions(stage)[KEY] == 4


@drill("RHO_VIOLATION")
def a_violation_in_the_cache_alone(stage: Stage, servers: Servers) -> Iterator[Drill]:
    with both_servers(stage, servers):
        forge(servers, version=1)
        assert audit(stage)["psd_ok"] is True
        wrong = {(each["store"], each["outcome"]) for each in audit(stage, "both")["results"]}
        assert wrong == {("redis cache", "violated"), ("redis cache", "contradicting")}
        codes = {"both.ndjson": {3}, "cache-warm": {0, 3}}
        yield Drill({"KEY": KEY}, codes=codes, passed=IN_THE_CACHE)
        assert audit(stage, "both")["psd_ok"] is True
        assert versions(stage)[KEY] == 1


@drill("RHO_VIOLATION")
def a_violation_in_both(stage: Stage, servers: Servers) -> Iterator[Drill]:
    with both_servers(stage, servers) as url:
        put_violation(url, KEY, namespace=NAMESPACE, cache=servers.redis.url)
        commit_id = newest_commit(stage)
        stores = {each["store"] for each in audit(stage, "both")["results"] if each["outcome"] == "violated"}
        assert stores == {None, "redis cache"}
        yield Drill({"KEY": KEY, "N": "1", "COMMIT_ID": commit_id}, codes=FOUND, passed=("--file", "commit "))
        assert audit(stage, "both")["psd_ok"] is True


@drill("RHO_VIOLATION")
def a_refused_commit(stage: Stage, servers: Servers) -> Iterator[Drill]:
    stage.put(seed=1)
    stage.save("bad.npy", with_smallest_eigenvalue(density(4), -5e-7))
    fails(stage, 11, "commit", "--", f"{KEY}=bad.npy")
    yield Drill({"KEY": KEY, "FILE": "bad.npy"}, codes={"verify-psd --file": {3}}, passed=A_REFUSAL)
    stage.ok("commit", "--clamp", "--max-move", "1e-6", "--", f"{KEY}=bad.npy")
    assert versions(stage)[KEY] == 2


def forge(servers: Servers, version: int) -> None:
    """Put a violation into the cache past somactl, as a copy of that version with a seal that fits."""
    array = with_smallest_eigenvalue(density(4), -0.2)
    data = serialize_matrix(array, key=KEY, namespace=NAMESPACE, kind="rho", timestamp=0.0)
    names = Names.of(NAMESPACE)
    with servers.redis.client() as raw:
        incarnation = raw.get(names.marker).decode()
        seconds, fraction = raw.time()
        entry = Entry(KEY, version, incarnation, "forged", 0.0, data, None, "")
        fill = Fill(KEY, version, incarnation, seconds + fraction / 1e6, entry, peek(data).content)
        raw.hset(names.entry(KEY), mapping=fields(NAMESPACE, fill))


@drill("AUDIT_MISSED")
def a_night_without_the_store(stage: Stage, servers: Servers) -> Iterator[Drill]:
    gateway = servers.gateway
    stage.env["SOMACTL_PUSH_GATEWAY"] = gateway.url
    server = servers.fresh()
    stage.on(server.url).ok("init")
    server.stop()
    fails(stage, 13, "verify-psd", "--all", "--incremental", "--recheck", "5%", "--resume", "--push")
    assert gateway.value("somabrain_job_exit_code", job="verify-psd", namespace=NAMESPACE) == 13

    def back() -> None:
        server.start()
        stage.ok("init")
        stage.put()

    yield Drill(codes={"--sample": {13}}, mend=back)
    again = stage.ok("-o", "json", "verify-psd", "--all", "--incremental").json
    assert (again["complete"], again["coverage"]["unchanged"]) == (True, 1)
    assert gateway.value("somabrain_rho_psd_ok", job="verify-psd", namespace=NAMESPACE) == 1


@drill("DEGRADED")
def a_cache_that_is_down(stage: Stage, servers: Servers) -> Iterator[Drill]:
    with both_servers(stage, servers):
        servers.redis.stop()
        fails(stage, 4, "commit", "--", f"{KEY}=2.npy")
        yield Drill(codes={"redis-cli": {0, 1}}, mend=servers.redis.start)
        assert audit(stage, "both")["valid"] == 4
        assert stage.ok("-o", "json", "get", "other").json["served_by"] == "redis cache"


@drill("LATENCY")
def a_session_that_holds_a_lock(stage: Stage, servers: Servers) -> Iterator[Drill]:
    """Commits wait for it, ten seconds at most; so would `doctor`, which the other drill runs."""
    with both_servers(stage, servers) as url:
        words = "BEGIN; LOCK TABLE somactl.payload IN EXCLUSIVE MODE; SELECT pg_backend_pid();"
        with Popen(["psql", "-qAt", url], stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) as session:
            assert session.stdin is not None
            assert session.stdout is not None
            session.stdin.write(f"{words}\n")
            session.stdin.flush()
            pid = session.stdout.readline().strip()
            waiting = stage.begin(*stage.where, "commit", "--", f"{KEY}=2.npy", env=stage.env)
            blocked = f"psql -At '{url}' -c 'SELECT pg_blocking_pids(pid) FROM pg_stat_activity'"
            until(lambda: pid in stage.line(blocked).stdout)
            assert waiting.poll() is None
            yield Drill({"PID": pid}, passed=("redis-cli", "doctor"))
            _, err = waiting.communicate(timeout=60)
            assert waiting.returncode == 0, err
            session.kill()


@drill("LATENCY")
def a_script_that_is_slow(stage: Stage, servers: Servers) -> Iterator[Drill]:
    stage.on(servers.fresh().url).ok("init")
    stage.put()
    with configured(servers.redis, slowlog_log_slower_than="0"), servers.redis.client() as raw:
        raw.eval("for i = 1, 1000000 do end", 0)
        assert raw.slowlog_get()
    yield Drill(passed=("psql",))


@drill("EVENT_BACKLOG")
def a_relay_that_does_not_run(stage: Stage, servers: Servers) -> Iterator[Drill]:
    stage.ok("init")
    stage.ok("events", "enable")
    stage.put(seed=1)
    stage.put(seed=2)
    assert waiting_events(stage) == 2

    async def publish() -> None:
        store = SqliteStore(stage.folder / "my store.db", namespace=NAMESPACE)
        await store.mark_published(2)
        await store.close()

    yield Drill(mend=lambda: asyncio.run(publish()))
    assert waiting_events(stage) == 0


def waiting_events(stage: Stage) -> int:
    return int(stage.ok("-o", "json", "events", "status").json["backlog"])

"""cache-warm on a real Redis: filling, measuring, mending, and stopping in time."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import pytest

from servers.redis import RedisServer
from somactl.core.envelope import serialize_matrix
from somactl.core.framing import peek
from somactl.store.cached import Fill
from somactl.store.contract import Entry
from somactl.store.redis.cache_entries import Names, fields
from tests.cli.conftest import Result, Shell, density

NAMES = Names.of("default")
TTL = 300


class Warm:
    """A shell whose SQLite store has a Redis before it, and a look into that Redis."""

    def __init__(self, shell: Shell, server: RedisServer) -> None:
        self.shell = shell
        self.raw = server.client()
        self.raw.flushdb()
        self.env = {"SOMACTL_CACHE": server.url, "SFM_RHO_READ_TIMEOUT_MS": "5000"}

    def __call__(self, *words: str) -> Result:
        return self.shell(*words, env=self.env)

    def report(self, *words: str, code: int = 0) -> Any:
        result = self("cache-warm", "--output", "json", *words)
        assert result.code == code, (result.code, result.err, result.text)
        return result.json

    def commit(self, *keys: str, n: int = 8, seed: int = 0) -> None:
        """All at once, and without the cache: it then lacks them, or has something older."""
        files = [self.shell.save(f"{i}.npy", density(n, seed=seed + i)) for i in range(len(keys))]
        self.shell.ok("commit", *(f"{key}={file}" for key, file in zip(keys, files, strict=True)))

    def remove(self, key: str) -> None:
        self.shell.ok("rm", key)

    def held(self) -> dict[str, bytes]:
        """Key -> version, of what the cache holds."""
        found = {}
        for name in self.raw.scan_iter(match=NAMES.pattern):
            found[NAMES.key(name) or ""] = self.raw.hget(name, "version")
        return found

    def change(self, key: str, field: str, value: bytes | str) -> None:
        self.raw.hset(NAMES.entry(key), field, value)

    def forge(self, key: str, version: int, incarnation: str | None) -> None:
        """An intact entry of another matrix, as only an unannounced restore or a forger leaves one."""
        serving = self.raw.get(NAMES.marker).decode()
        data = serialize_matrix(density(8, seed=99), key=key, kind="rho", timestamp=0.0)
        entry = Entry(key, version, incarnation or serving, "forged", 0.0, data, None, "")
        seconds, fraction = self.raw.time()
        fill = Fill(key, version, entry.incarnation, seconds + fraction / 1e6, entry, peek(data).content)
        self.raw.hset(NAMES.entry(key), mapping=fields("default", fill))


@pytest.fixture
def warm(shell: Shell, redis_server: RedisServer) -> Iterator[Warm]:
    warm = Warm(shell, redis_server)
    yield warm
    warm.raw.close()


def counts(report: Any) -> dict[str, int]:
    names = ("current", "missing", "outdated", "deleted", "newer", "unknown", "contradicting", "foreign")
    return {name: report[name] for name in (*names, "corrupt") if report[name]}


def test_it_copies_what_the_cache_lacks(warm: Warm) -> None:
    warm.commit("a", "b", "c")
    first = warm.report()
    assert (first["checked"], first["filled"], first["current"], first["complete"]) == (3, 3, 0, True)
    assert first["bytes_filled"] > 0
    assert warm.held() == {"a": b"1", "b": b"1", "c": b"1"}
    again = warm.report()
    assert (again["filled"], again["current"]) == (0, 3)
    warm.commit("b", seed=5)
    third = warm.report()
    assert (third["filled"], third["current"], warm.held()["b"]) == (1, 2, b"2")
    assert "redis cache" in warm("get", "b", "--output", "json").json["served_by"]


def test_only_what_matches_and_only_kinds_that_are_cached(warm: Warm) -> None:
    warm.commit("x:1", "x:2", "y:1")
    warm.shell.write("plain.bin", serialize_matrix(density(4), key="x:3", kind="matrix", timestamp=0.0))
    warm.shell.ok("commit", "x:3=plain.bin")
    report = warm.report("--match", "x:*")
    assert (report["checked"], report["filled"], report["not_cached"]) == (3, 2, 1)
    assert set(warm.held()) == {"x:1", "x:2"}


def test_copies_live_no_longer_than_the_ttl_and_not_all_equally_long(warm: Warm) -> None:
    warm.commit(*(f"k{i}" for i in range(12)))
    warm.report()
    lives = [warm.raw.pttl(NAMES.entry(f"k{i}")) / 1000 for i in range(12)]
    assert all(0.8 * TTL - 10 < life <= TTL for life in lives)
    assert max(lives) - min(lives) > 0.02 * TTL


def test_a_dry_run_writes_nothing(warm: Warm) -> None:
    warm.commit("a", "b")
    report = warm.report("--dry-run")
    assert (report["filled"], report["dry_run"]) == (2, True)
    assert report["next"].startswith("somactl cache-warm")
    assert warm.raw.keys("*") == []


def test_it_stops_before_the_server_would_evict(warm: Warm) -> None:
    warm.commit("a", n=200)
    used = int(warm.raw.info("memory")["used_memory"])
    warm.raw.config_set("maxmemory", str(int(used * 1.05)))
    try:
        for dry in ([], ["--dry-run"]):
            report = warm.report(*dry, code=4)
            assert (report["filled"], report["complete"]) == (0, False)
            assert "bytes are used" in report["stopped"]
        assert warm.held() == {}
    finally:
        warm.raw.config_set("maxmemory", "0")


def test_the_rate_is_kept(warm: Warm) -> None:
    """Four values of 320 KB at 2 MB/s: the last may not begin before 0.45 s."""
    warm.commit("a", "b", "c", "d", n=280)
    began = time.monotonic()
    report = warm.report("--rate", "2MB")
    assert time.monotonic() - began > report["bytes_filled"] / 2e6 * 0.9
    assert report["filled"] == 4


def test_reconcile_measures_and_mends(warm: Warm) -> None:
    keys = ("same", "outdated", "deleted", "lost", "corrupt", "newer", "contradicting", "unknown", "foreign")
    warm.commit(*keys)
    warm.report()
    warm.commit("outdated", seed=50)
    warm.remove("deleted")
    warm.raw.delete(NAMES.entry("lost"))
    warm.change("corrupt", "envelope", warm.raw.hget(NAMES.entry("corrupt"), "envelope")[:-1])
    for key, version, incarnation in (
        ("newer", 77, None),
        ("contradicting", 1, None),
        ("unknown", 2, None),
        ("foreign", 1, "f" * 32),
    ):
        warm.forge(key, version, incarnation)
    differences = {
        "outdated": 1,
        "deleted": 1,
        "missing": 1,
        "corrupt": 1,
        "newer": 1,
        "contradicting": 1,
        "unknown": 1,
        "foreign": 1,
        "current": 1,
    }
    before = warm.held()
    measured = warm.report("--reconcile", "--dry-run", code=3)
    assert counts(measured) == differences
    assert (warm.held(), measured["evicted"], measured["filled"]) == (before, 0, 0)
    assert {f["key"] for f in measured["findings"]} == {"corrupt", "newer", "contradicting", "unknown"}
    assert measured["oldest_stale_key"] in ("outdated", "deleted")
    assert 0 <= measured["oldest_stale_seconds"] < TTL
    mended = warm.report("--reconcile", code=3)
    assert counts(mended) == differences
    after = warm.report("--reconcile")
    assert counts(after) == {"current": 8}
    assert warm("get", "newer", "--output", "json").json["served_by"] == "redis cache"
    table = warm("cache-warm", "--reconcile")
    assert "8 current" in table.text


def test_a_copy_that_the_authority_has_never_known_is_a_finding(warm: Warm, shell: Shell) -> None:
    """An older file was put in place of the database without a word."""
    warm.commit("a")
    warm.report()
    backup = (shell.folder / "somactl.db").read_bytes()
    warm.commit("new", "a", seed=9)
    warm.report()
    for suffix in ("-wal", "-shm"):
        (shell.folder / f"somactl.db{suffix}").unlink(missing_ok=True)
    (shell.folder / "somactl.db").write_bytes(backup)
    assert warm("get", "new", "--output", "json").json["served_by"] == "redis cache"
    report = warm.report("--reconcile", code=3)
    assert (report["newer"], report["evicted"]) == (2, 2)
    assert warm("get", "new").code == 15
    assert warm.report("--reconcile")["current"] == 1


def test_stale_copies_alone_are_no_finding(warm: Warm) -> None:
    warm.commit("a", "b")
    warm.report()
    warm.commit("a", seed=3)
    assert counts(warm.report("--reconcile", "--dry-run", code=4)) == {"current": 1, "outdated": 1}
    assert counts(warm.report("--reconcile")) == {"current": 1, "outdated": 1}
    assert counts(warm.report("--reconcile")) == {"current": 2}


def test_reconcile_makes_a_cache_of_another_incarnation_serve_this_one(warm: Warm) -> None:
    warm.commit("a", "b")
    warm.report()
    warm.shell.ok("init", "--new-incarnation")  # without the cache: a mistake
    refused = warm("cache-warm", "--output", "json")
    assert (refused.code, "--reconcile" in refused.error["hint"]) == (13, True)
    measured = warm.report("--reconcile", "--dry-run", code=4)
    assert counts(measured) == {"foreign": 2}
    mended = warm.report("--reconcile")
    assert (mended["adopted"], mended["filled"]) == (True, 2)
    assert counts(warm.report("--reconcile")) == {"current": 2}


def test_a_cache_blocked_by_an_init_is_left_to_it(warm: Warm) -> None:
    warm.commit("a")
    warm.raw.set(NAMES.marker, "!another")
    for words in ([], ["--reconcile"]):
        result = warm("cache-warm", "--output", "json", *words)
        assert result.code == 13
        assert "init --new-incarnation" in result.error["hint"]
    assert warm.raw.get(NAMES.marker) == b"!another"
    assert warm("init", "--new-incarnation").code == 0
    assert warm.report()["filled"] == 1


def test_a_corrupt_value_of_the_authority_is_a_finding_and_not_copied(warm: Warm, shell: Shell) -> None:
    warm.commit("a", "b")
    with sqlite3.connect(shell.folder / "somactl.db") as connection:
        connection.execute("UPDATE payload SET data = zeroblob(length(data)) WHERE id = 1")
    connection.close()
    report = warm.report(code=3)
    assert (report["filled"], [finding["key"] for finding in report["findings"]]) == (1, ["a"])
    assert set(warm.held()) == {"b"}


def test_without_a_cache_it_says_how_to_name_one(shell: Shell) -> None:
    result = shell("cache-warm", "--output", "json")
    assert result.code == 2
    assert "--cache" in result.error["hint"]


def test_an_unreachable_cache_or_store_is_13(warm: Warm, shell: Shell) -> None:
    warm.commit("a")
    gone = shell("cache-warm", "--cache", "redis://127.0.0.1:1", "--output", "json")
    assert gone.code == 13
    empty = warm("cache-warm", "--store", "sqlite:///none.db")
    assert empty.code == 15


def test_a_signal_ends_it_and_what_was_done_is_told(warm: Warm, shell: Shell) -> None:
    warm.commit(*(f"k{i}" for i in range(4)), n=280)
    process = shell.begin("cache-warm", "--rate", "0.2MB/s", "--output", "json", env=warm.env)
    for _ in range(2000):
        if warm.held():
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    report = json.loads(out)
    assert (report["complete"], report["stopped"]) == (False, "a signal")

"""What each runbook is for, brought about, and what is better once its commands were run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from servers.redis import RedisServer
from somactl.report import VerifyReport
from somactl.report.evidence import write_evidence
from somactl.suggestion import quote
from tests.cli.conftest import density
from tests.suggested.server_cases import Servers, configured, cut_after
from tests.suggested.stage import KEY, SECRET, Stage


@dataclass
class Drill:
    """How a page is carried out.

    values  what stands for the page's words in capitals
    mend    what the page says in prose, between its `Look` and its `Do`
    codes   what commands that contain these words may end with, where that is not 0
    passed  commands that contain these words are not run: they are for another store
    """

    values: Mapping[str, str] = field(default_factory=dict)
    mend: Callable[[], Any] = lambda: None
    codes: Mapping[str, set[int]] = field(default_factory=dict)
    passed: Sequence[str] = ()
    before: Sequence[str] = ()


Case = Callable[[Stage, Servers], Iterator[Drill]]
DRILLS: list[tuple[str, Case]] = []
SQLITE, REDIS, POSTGRES = (
    ("DATABASE", "sqlite3", "dmesg", "df ", "ls -ld", "fuser", "cp "),
    ("redis-cli",),
    ("pg_",),
)


def drill(page: str) -> Callable[[Case], Case]:
    """Register a drill: a generator that brings the fault about, yields, and asserts that it is over."""

    def register(function: Case) -> Case:
        DRILLS.append((page, function))
        return function

    return register


def fails(stage: Stage, code: int, *words: str, **options: Any) -> None:
    """The fault is there: this command ends so."""
    result = stage(*words, **options)
    assert result.code == code, result.err


@drill("configuration")
def a_file_with_a_bad_store(stage: Stage, servers: Servers) -> Iterator[Drill]:
    stage.ok("init", "--store", "sqlite:///good.db")
    stage.write("somactl.toml", 'store = "sqlite://good.db"\n')
    stage.env |= {"SOMACTL_CONFIG": "somactl.toml", "SOMACTL_STORE": ""}
    fails(stage, 10, "ls")
    yield Drill(mend=lambda: stage.write("somactl.toml", 'store = "sqlite:///good.db"\n'))
    stage.ok("ls")


@drill("access-denied")
def a_password_that_was_changed(stage: Stage, servers: Servers) -> Iterator[Drill]:
    url = servers.postgres.create_database()
    wrong = url.replace(f":{servers.postgres.password}@", f":{SECRET}@")
    stage.on(wrong)
    fails(stage, 10, "ls")

    yield Drill(mend=lambda: stage.on(url))
    stage.ok("init")
    servers.postgres.drop_database(url)


@drill("corrupt-value")
def a_bit_that_flipped(stage: Stage, servers: Servers) -> Iterator[Drill]:
    stage.put(seed=1)
    stage.put(seed=2)
    stage.execute("UPDATE payload SET data = zeroblob(length(data)) WHERE id = (SELECT max(id) FROM payload)")
    fails(stage, 3, "verify-psd", "--all")
    yield Drill({"KEY": KEY, "N": "1"}, codes={"audit.json": {3}})
    assert stage.ok("-o", "json", "ls").json["keys"][0]["version"] == 3


@drill("input-rejected")
def a_file_that_was_cut_short(stage: Stage, servers: Servers) -> Iterator[Drill]:
    stage.put("other")
    stage.save("its.npy", density(4))
    whole = (stage.folder / "its.npy").read_bytes()
    stage.write("its.npy", whole[:-9])
    fails(stage, 11, "commit", "--", f"{KEY}=its.npy")
    mend = lambda: stage.write("its.npy", whole)  # noqa: E731
    yield Drill({"KEY": KEY, "FILE": "its.npy"}, mend, {"verify-psd --file": {11}})
    stage.ok("commit", "--", f"{KEY}=its.npy")


@drill("lock-held")
def another_run(stage: Stage, servers: Servers) -> Iterator[Drill]:
    stage.put("a")
    stage.write("order", "a\n")
    stage.execute(
        "CREATE TRIGGER another AFTER INSERT ON note BEGIN "
        "UPDATE note SET version = version + 1 WHERE name = NEW.name; END;"
    )
    words = ("prune", "--order-file", "order", "--batch", "1", "--order-id", "night")
    fails(stage, 16, *words)
    yield Drill(mend=lambda: stage.execute("DROP TRIGGER another"))
    stage.ok(*words)


@drill("migration")
def a_migration_to_be_taken_back(stage: Stage, servers: Servers) -> Iterator[Drill]:
    stage.put("note#/rho", 3)
    old = {"task": "note", "rho": [[0.75, 0], [0, 0.25]]}
    stage.write("note.json", json.dumps(old))
    fails(stage, 3, "migrate-json", "note.json", "--discover")  # the target holds another matrix
    again = stage("-o", "json", "migrate-json", "note.json", "--discover").json
    stage.ok("rm", "note#/rho")
    moved = stage.ok("-o", "json", "migrate-json", "note.json", "--discover").json
    stage.ok("migration", "finalize", moved["migration"], "--yes")
    assert "__somactl__" in (stage.folder / "note.json").read_text()
    assert again["migration"] == moved["migration"]
    values = {"SOURCE": "note.json", "MIGRATION": moved["migration"], "TARGET": "note#/rho"}
    # The copy is deleted on the page's way: the revert says so, and that nothing is left to put back twice.
    yield Drill(values, codes={"--dry-run": {0, 3, 4}, "revert": {0, 1, 2, 4}})
    assert json.loads((stage.folder / "note.json").read_text()) == old


@drill("outcome-unknown")
def a_reply_that_is_lost(stage: Stage, servers: Servers) -> Iterator[Drill]:
    stage.on(servers.fresh().url).ok("init")
    stage.save("c.npy", density(4))
    with cut_after(servers.redis.port, b"EVALSHA") as (port, heal):
        stage.on(f"redis://127.0.0.1:{port}/0")
        fails(stage, 14, "commit", "--commit-id", "night:7", "--", f"{KEY}=c.npy")
        heal()
        yield Drill({"KEY": KEY, "FILE": "c.npy", "COMMIT_ID": "night:7"})
        assert stage.ok("-o", "json", "log").json["commits"][0]["commit_id"] == "night:7"


@drill("prune")
def a_namespace_over_its_limit(stage: Stage, servers: Servers) -> Iterator[Drill]:
    for key in (KEY, "b"):
        stage.put(key)
    stage.write("the order", f"{KEY}\nb\n")
    fails(stage, 4, "prune", "--keep", "1")
    yield Drill({"FILE": "the order"})
    stage.ok("prune", "--keep", "1", "--order-file", "the order", "--order-id", "o")
    stage.ok("restore", "--commit", "o")
    assert stage.ok("-o", "json", "ls").json["total"] == 2


@drill("evidence")
def evidence_that_was_cut_short(stage: Stage, servers: Servers) -> Iterator[Drill]:
    data = write_evidence(VerifyReport(method="certify", checked=1, valid=1, psd_ok=True).finish())
    stage.write("cut.json", data[:-9])
    stage.write("whole.json", data)
    fails(stage, 11, "evidence", "check", "cut.json")
    fails(stage, 11, "evidence", "merge", "cut.json")
    yield Drill({"FILE": "cut.json", "OTHER": "whole.json", "COPY": "sum.json"}, codes={"cut.json": {11}})
    stage.ok("evidence", "check", "sum.json")


@drill("schema-mismatch")
def a_store_that_is_newer(stage: Stage, servers: Servers) -> Iterator[Drill]:
    stage.put()
    stage.execute("INSERT INTO somactl_schema VALUES (99, 99, 99, 0)")
    fails(stage, 13, "ls")
    yield Drill(mend=lambda: stage.execute("DELETE FROM somactl_schema WHERE version = 99"))
    stage.ok("ls")


@drill("store-damaged")
def a_page_of_zeros(stage: Stage, servers: Servers) -> Iterator[Drill]:
    receipt = stage.put(KEY, 1)
    stage.execute("PRAGMA wal_checkpoint(TRUNCATE);")
    path = stage.folder / "my store.db"
    shutil.copy(path, stage.folder / "backup.db")
    data = path.read_bytes()
    path.write_bytes(data[:4096] + bytes(len(data) - 4096))
    fails(stage, 13, "log")
    shutil.copy(stage.folder / "backup.db", stage.folder / "good.db")  # what could be rescued from a copy
    values = {"KEY": KEY, "DATABASE": "my store.db", "COPY": "good.db", "RESTORED": "backup.db"}
    values |= {"COMMIT_ID": receipt["commit_id"]}
    yield Drill(values, codes={"sqlite3": {0, 1, 11}}, passed=REDIS)
    assert (stage.folder / "rescued.env").exists()
    assert (stage.folder / "copy" / "my store.db").exists()
    assert stage.ok("verify-psd", "--all", "--store", "sqlite:///backup.db").code == 0


@drill("store-damaged")
def a_head_that_is_gone(stage: Stage, servers: Servers) -> Iterator[Drill]:
    stage.on(servers.fresh().url).ok("init")
    stage.put()
    with servers.redis.client() as raw:
        for name in raw.scan_iter("*head*"):
            raw.delete(name)
    fails(stage, 13, "ls")
    yield Drill(
        {"KEY": KEY}, passed=(*SQLITE, "sqlite:///"), mend=lambda: stage.ok("init", "--new-incarnation")
    )
    assert stage.ok("-o", "json", "verify-psd", "--all").json["valid"] == 1


@drill("store-full")
def a_file_that_may_not_grow(stage: Stage, servers: Servers) -> Iterator[Drill]:
    stage.save("c.npy", density(120))
    somactl = " ".join(map(quote, ["somactl", *stage.where, "commit", "--quiet", "--", f"{KEY}=c.npy"]))
    filled = stage.line(f"ulimit -f 900; for i in $(seq 40); do {somactl} || exit $?; done", {})
    assert filled.returncode == 13, filled.stderr
    limit = ["ulimit -f 900"]
    yield Drill({"DATABASE": "my store.db"}, before=limit, mend=limit.clear, passed=REDIS)
    again = stage.line(f"ulimit -f 900; {somactl}", {})
    assert again.returncode == 0, again.stderr


@drill("store-full")
def a_memory_that_is_full(stage: Stage, servers: Servers) -> Iterator[Drill]:
    stage.on(servers.fresh().url).ok("init")
    for seed in range(6):
        file = stage.save(f"{seed}.npy", density(300, seed=seed))
        stage.ok("commit", "--", f"{KEY}={file}")
    with servers.redis.client() as raw:
        used = raw.info("memory")["used_memory"]
    with configured(servers.redis, maxmemory=str(used)):
        fails(stage, 13, "commit", "--", "x=5.npy")
        yield Drill({"BYTES": str(used + 100_000_000)}, passed=SQLITE)
        stage.ok("commit", "--", "x=5.npy")


@drill("store-unavailable")
def a_server_that_is_down(stage: Stage, servers: Servers) -> Iterator[Drill]:
    server = servers.fresh()
    stage.on(server.url).ok("init")
    server.stop()
    fails(stage, 13, "ls")
    yield Drill(passed=(*SQLITE, *POSTGRES), codes={"redis-cli": {0, 1}})
    server.start()
    stage.ok("init")


@drill("store-unavailable")
def a_folder_that_is_a_file(stage: Stage, servers: Servers) -> Iterator[Drill]:
    (stage.folder / "my store.db").mkdir()
    fails(stage, 13, "ls")
    yield Drill({"DATABASE": "my store.db"}, passed=(*REDIS, *POSTGRES))
    (stage.folder / "my store.db").rmdir()
    stage.ok("init")


@drill("unsafe-server")
def a_server_that_evicts(stage: Stage, servers: Servers) -> Iterator[Drill]:
    with RedisServer(stage.folder / "evicts", config={"maxmemory-policy": "allkeys-lru"}) as server:
        stage.on(server.url)
        stage.save("c.npy", density(2))
        fails(stage, 10, "init")
        yield Drill()
        stage.ok("init")
        stage.ok("commit", "a=c.npy")


@drill("version-compacted")
def a_version_that_was_compacted(stage: Stage, servers: Servers) -> Iterator[Drill]:
    stage.put(seed=1)
    stage.execute("PRAGMA wal_checkpoint(TRUNCATE);")
    shutil.copy(stage.folder / "my store.db", stage.folder / "backup.db")
    stage.put(seed=2)
    stage.put(seed=3)
    stage.ok("init", "--keep-versions", "2", "--keep-days", "9")
    stage.ok("compact", "--yes")
    fails(stage, 15, "get", "--version", "1", "--to", "x.env", "--", KEY)
    # N is the version that is kept beside it; the backup has the first alone.
    stage.ok("commit", "--store", "sqlite:///backup.db", "--", f"{KEY}=2.npy")
    yield Drill({"KEY": KEY, "N": "2", "RESTORED": "backup.db"})
    assert stage.ok("-o", "json", "ls").json["keys"][0]["version"] == 5


@drill("version-conflict")
def a_key_that_moved_on(stage: Stage, servers: Servers) -> Iterator[Drill]:
    stage.put(seed=1)
    stage.save("mine.npy", np.diag([0.25, 0.75]))
    fails(stage, 12, "commit", "--expect", "7", "--", f"{KEY}=mine.npy")
    yield Drill({"KEY": KEY, "FILE": "mine.npy", "N": "1"})
    assert stage.ok("-o", "json", "ls").json["keys"][0]["version"] == 2

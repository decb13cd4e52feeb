"""Whenever the next commit would fail, `doctor` ends non-zero and names the cause; else it is 0."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from servers.pgbouncer import PgBouncer
from servers.postgres import PostgresServer
from servers.redis import RedisServer
from tests.cli.conftest import Result, Shell, density

ROLE = "CREATE ROLE {0} LOGIN PASSWORD 'secret'"


def run(shell: Shell, store: str, *words: str, **more: str) -> Result:
    return shell(*words, env={"SOMACTL_STORE": store, "SOMACTL_RETRY_SECONDS": "0.2", **more})


def agree(shell: Shell, store: str, check: str, cause: str) -> None:
    """A commit fails, and `doctor` says why."""
    failed = run(shell, store, "commit", "a=a.npy")
    assert failed.code not in (0, 1), failed.text
    told = run(shell, store, "doctor", "-o", "json")
    assert told.code not in (0, 1), (told.text, told.err)
    wrong = [f for f in told.json["findings"] if f["status"] in ("problem", "unknown")]
    assert check in {f["check"] for f in wrong}, wrong
    assert cause in json.dumps(wrong), wrong
    assert all(f["advice"] for f in wrong)


def well(shell: Shell, store: str) -> None:
    told = run(shell, store, "doctor", "-o", "json")
    assert told.code == 0, told.text
    assert run(shell, store, "commit", "a=a.npy").code == 0


# SQLite


@dataclass
class File:
    shell: Shell

    @property
    def path(self) -> Path:
        return self.shell.folder / "d" / "s.db"

    @property
    def store(self) -> str:
        return f"sqlite:///{self.path}"


@pytest.fixture
def file(shell: Shell) -> File:
    (shell.folder / "d").mkdir()
    shell.save("a.npy", density(4))
    made = File(shell)
    assert run(shell, made.store, "commit", "a=a.npy").code == 0
    well(shell, made.store)
    return made


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A read-only medium, which binds root as well."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def may_mount(folder: Path) -> bool:
    tried = subprocess.run(["mount", "--bind", folder, folder], capture_output=True, check=False)
    return tried.returncode == 0


@pytest.fixture
def mountable(file: File) -> File:
    folder = file.path.parent
    if not may_mount(folder):
        pytest.skip("mounting takes root")
    subprocess.run(["umount", folder], check=True)
    return file


def test_a_read_only_medium_can_be_read_and_audited(mountable: File) -> None:
    shell, store = mountable.shell, mountable.store
    with read_only(mountable.path.parent):
        agree(shell, store, "permissions", "cannot be written")
        assert run(shell, store, "ls", "-o", "json").json["total"] == 1
        assert run(shell, store, "verify-psd", "--all").code == 0
        assert run(shell, store, "show", "a", "--check").code == 0


def test_a_log_on_a_read_only_medium_is_never_ignored(mountable: File) -> None:
    """The newest commits are in the -wal, which SQLite cannot read without its -shm."""
    shell, path = mountable.shell, mountable.path
    with sqlite3.connect(path) as writer:  # while it has the file open, the log stays
        writer.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        assert run(shell, mountable.store, "commit", "b=a.npy").code == 0
        copies = {name: (path.parent / name).read_bytes() for name in ("s.db", "s.db-wal")}
    writer.close()
    other = path.parent / "other"
    other.mkdir()
    for name, content in copies.items():
        (other / name).write_bytes(content)
    with read_only(other):
        refused = run(shell, f"sqlite:///{other}/s.db", "ls")
        assert (refused.code, "-wal" in refused.err) == (13, True)
    assert run(shell, f"sqlite:///{other}/s.db", "ls", "-o", "json").json["total"] == 2


def test_a_lock_names_its_holder(file: File) -> None:
    holder = subprocess.Popen(
        ["python3", "-c", "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
         "c.execute('BEGIN IMMEDIATE')\nprint('held', flush=True)\nsys.stdin.read()", str(file.path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        agree(file.shell, file.store, "lock", str(holder.pid))
    finally:
        holder.communicate()
    well(file.shell, file.store)


@pytest.mark.parametrize("damaged", ["type = 'index'", "name = 'payload'"])
def test_a_damaged_part(file: File, damaged: str) -> None:
    with sqlite3.connect(file.path) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page_size = raw.execute("PRAGMA page_size").fetchone()[0]
        pages = [page for (page,) in raw.execute(f"SELECT rootpage FROM sqlite_schema WHERE {damaged}")]
    raw.close()
    content = bytearray(file.path.read_bytes())
    for page in pages:
        content[(page - 1) * page_size : page * page_size] = bytes(page_size)
    file.path.write_bytes(content)
    agree(file.shell, file.store, "commit" if "payload" in damaged else "integrity", "damaged")


def test_no_space(mountable: File) -> None:
    small = mountable.path.parent / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    try:
        shutil.copy(mountable.path, small / "s.db")
        filler = os.open(small / "filler", os.O_WRONLY | os.O_CREAT)
        with suppress(OSError):
            while True:
                os.write(filler, bytes(4096))
        os.close(filler)
        shell, store = mountable.shell, f"sqlite:///{small}/s.db"
        assert run(shell, store, "ls", "-o", "json").json["total"] == 1
        assert run(shell, store, "verify-psd", "--all").code == 0
        agree(shell, store, "space", "small")
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("what", ["other", "text", "folder"])
def test_what_is_no_database_of_ours(file: File, what: str) -> None:
    path = file.path.with_name(what)
    if what == "other":
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE t (a)")
        other.close()
    elif what == "text":
        path.write_text("no database " * 1000)
    else:
        path.mkdir()
    agree(file.shell, f"sqlite:///{path}", "reachable", str(path))


# Postgres


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One that promises what it says: the shared server runs without fsync, which is a problem by itself."""
    folder = tmp_path_factory.mktemp("postgres")
    with PostgresServer(folder, settings={"fsync": "on", "full_page_writes": "on"}) as server:
        yield server


@pytest.fixture
def database(shell: Shell, postgres: PostgresServer) -> Iterator[str]:
    shell.save("a.npy", density(4))
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


def name_of(url: str) -> str:
    return url.rpartition("/")[2].partition("?")[0]


def test_postgres_from_nothing_to_a_commit(shell: Shell, database: str, postgres: PostgresServer) -> None:
    agree(shell, database, "migrations", "never initialised")
    assert run(shell, database, "init").code == 0
    well(shell, database)
    other = {"SOMACTL_NAMESPACE": "other"}
    told = run(shell, database, "doctor", "-o", "json", **other)
    assert told.code == 3
    assert "does not exist" in told.text
    role = f"reader_{name_of(database)}"
    postgres.run(ROLE.format(role), name_of(database))
    postgres.run(f"GRANT USAGE ON SCHEMA somactl TO {role}", name_of(database))
    postgres.run(f"GRANT SELECT ON ALL TABLES IN SCHEMA somactl TO {role}", name_of(database))
    limited = f"postgresql://{role}:secret@127.0.0.1:{postgres.port}/{name_of(database)}"
    agree(shell, limited, "permissions", "may not write")
    postgres.run(f"ALTER DATABASE {name_of(database)} SET default_transaction_read_only = on")
    agree(shell, database, "read_only", "read-only")
    postgres.run(f"ALTER DATABASE {name_of(database)} RESET default_transaction_read_only")
    broken = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'somactl.revision_pkey'::regclass"
    postgres.run(broken, name_of(database))
    told = run(shell, database, "doctor", "-o", "json")
    assert (told.code, "revision_pkey" in told.text) == (3, True)


@pytest.mark.parametrize(
    "lock", ["SELECT 1 FROM somactl.namespace FOR UPDATE", "LOCK TABLE somactl.namespace"]
)
async def test_a_lock_of_postgres_names_its_holder(
    shell: Shell, database: str, postgres: PostgresServer, lock: str
) -> None:
    assert run(shell, database, "init").code == 0
    holder = await asyncpg.connect(database, server_settings={"application_name": "a stuck job"})
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute(lock)
    told = run(shell, database, "doctor", "-o", "json")
    (found,) = [f for f in told.json["findings"] if f["check"] == "lock"]
    assert told.code == 3
    assert "a stuck job" in found["detail"]
    assert str(holder.get_server_pid()) in found["detail"]
    await transaction.rollback()
    await holder.close()
    well(shell, database)


def test_pgbouncer_in_statement_mode(
    shell: Shell, database: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    assert run(shell, database, "init").code == 0
    pooler = PgBouncer(tmp_path / "pgbouncer", postgres)
    pooler.settings["pool_mode"] = "statement"
    with pooler:
        # A small commit is one statement and passes; any other is refused.
        told = run(shell, pooler.url(name_of(database)), "doctor", "-o", "json")
        wrong = {f["check"]: f["detail"] for f in told.json["findings"] if f["status"] == "problem"}
        assert told.code not in (0, 1)
        assert any("statement mode" in detail for detail in wrong.values()), wrong


# Redis


@pytest.fixture
def redis(shell: Shell, tmp_path: Path) -> Iterator[RedisServer]:
    shell.save("a.npy", density(4))
    with RedisServer(tmp_path / "redis", config={"appendonly": "yes", "appendfsync": "always"}) as server:
        yield server


def test_redis_and_its_faults(shell: Shell, redis: RedisServer) -> None:
    store = redis.url
    agree(shell, store, "namespace", "does not exist")
    assert run(shell, store, "init").code == 0
    well(shell, store)
    with redis.client() as raw:
        raw.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all", "-@write")
        agree(shell, store.replace("//", "//reader:pw@"), "commit", "SET")
        raw.config_set("maxmemory", "1mb")
        agree(shell, store, "commit", "memory")
        raw.config_set("maxmemory", "0")
        raw.config_set("min-replicas-to-write", "1")
        agree(shell, store, "commit", "replicas")
        raw.config_set("min-replicas-to-write", "0")
        raw.execute_command("REPLICAOF", "127.0.0.1", "1")
        agree(shell, store, "replicas", "replica")
        raw.execute_command("REPLICAOF", "NO", "ONE")
        raw.config_set("maxmemory-policy", "allkeys-lru")
        agree(shell, store, "maxmemory-policy", "evict")
        raw.config_set("maxmemory-policy", "noeviction")
        well(shell, store)
        for part in ("keys", "superseded", "version_counts", "log", "records"):
            name, aside = f"somactl:{{default}}:{part}", "aside"
            there = raw.exists(name) and raw.rename(name, aside)
            raw.set(name, "foreign")
            agree(shell, store, "indexes", part)
            assert raw.rename(aside, name) if there else raw.delete(name)
        well(shell, store)
        assert raw.zrem("somactl:{default}:keys", "a") == 1
        agree(shell, store, "indexes", "head counts")


# What is wrong with any


@pytest.mark.parametrize(
    "store", ["redis://127.0.0.1:65536/0", "postgresql://127.0.0.1:65536/x", "redis://127.0.0.1:1/0"]
)
def test_a_port_that_cannot_be_and_one_where_nothing_listens(shell: Shell, store: str) -> None:
    shell.save("a.npy", density(4))
    codes = {run(shell, store, *words).code for words in (["commit", "a=a.npy"], ["doctor"])}
    assert codes == ({10} if "65536" in store else {13})

"""The restore pages, carried out on real servers with the commands that stand on them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from servers.postgres import PostgresServer
from servers.process import find
from servers.redis import RedisServer
from tests.cli.conftest import Result, Shell, density

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: str) -> list[str]:
    """The shell blocks under "Backup and restore", without the lines that name the reader's own servers."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    section = re.split(r"^#+ Backup and restore$", text, flags=re.M)[1]
    section = re.split(r"^#+ ", re.sub(r"^#(?!#)[^\n]*$", "", section, flags=re.M), flags=re.M)[0]
    found = re.findall(r"^```sh\n(.*?)^```$", section, flags=re.M | re.S)
    assert found
    return [re.sub(r"^(?:export )?[A-Z_]+=\S+.*\n", "", block, flags=re.M) for block in found]


class Page:
    """A shell that runs the blocks of a page."""

    def __init__(self, shell: Shell, page: str, **env: str) -> None:
        self.shell = shell
        self.blocks = blocks(page)
        self.env = {"SFM_RHO_READ_TIMEOUT_MS": "5000", **env}  # a machine that is busy is no fault here

    def __call__(self, *words: str) -> Result:
        return self.shell(*words, env=self.env)

    def run(self, number: int) -> str:
        done = self.shell.line(f"set -e -o pipefail\n{self.blocks[number]}", self.env)
        assert done.returncode == 0, (self.blocks[number], done.stdout, done.stderr)
        return done.stdout

    def put(self, key: str, seed: int) -> None:
        file = self.shell.save("value.npy", density(4, seed=seed))
        assert self("commit", f"{key}={file}").code == 0

    def holds(self, key: str, seed: int) -> None:
        assert self("get", key, "--as", "npy", "--to", "got.npy").code == 0
        assert np.array_equal(np.load(self.shell.folder / "got.npy"), density(4, seed=seed))

    def incarnation(self) -> str:
        (view,) = self("namespaces", "-o", "json").json["namespaces"]
        return str(view["incarnation"])


def test_sqlite(shell: Shell) -> None:
    page = Page(shell, "STORES.md", SOMACTL_STORE="sqlite:///somactl.db")
    page.put("a", 1)
    page.run(0)
    before = page.incarnation()
    page.put("a", 2)
    page.put("b", 3)
    page.run(1)
    page.holds("a", 1)
    assert page("get", "b", "-o", "json").code == 15
    assert page.incarnation() != before


def test_postgres_with_an_active_cache(shell: Shell, tmp_path: Path) -> None:
    with (
        PostgresServer(tmp_path / "pg", settings={"fsync": "on", "full_page_writes": "on"}) as server,
        RedisServer(
            tmp_path / "redis", config={"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}
        ) as redis,
    ):
        page = Page(
            shell, "STORE_POSTGRES.md", SOMACTL_STORE=server.create_database(), SOMACTL_CACHE=redis.url
        )
        assert page("init").code == 0
        page.put("a", 1)
        before = page.incarnation()
        page.run(1)
        page.put("a", 2)
        page.put("gone", 3)
        page.run(2)
        # What would happen if the page ended here: the cache serves what was undone, and doctor says so.
        assert page("get", "gone", "-o", "json").json["served_by"] == "redis cache"
        told = page("doctor", "-o", "json")
        (copies,) = [f for f in told.json["findings"] if f["check"] == "copies"]
        assert (told.code, copies["status"]) == (3, "problem")
        assert any("--new-incarnation" in line for line in copies["next"])
        assert page("verify-psd", "--all", "--from", "both").code == 3
        page.run(3)
        assert page.incarnation() != before
        page.holds("a", 1)
        assert page("get", "gone").code == 15
        assert page("verify-psd", "--all", "--from", "both").code == 0


@pytest.fixture(params=["yes", "no"], ids=["appendonly", "snapshots"])
def redis_page(shell: Shell, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Page, str]]:
    """A Redis that is started with a file of settings, as the page starts it again."""
    with RedisServer(tmp_path / "redis") as free:
        port = free.port
    data, backup, conf = tmp_path / "data", tmp_path / "backup", tmp_path / "redis.conf"
    data.mkdir()
    backup.mkdir()
    settings = {
        "port": port, "bind": "127.0.0.1", "dir": data, "appendonly": request.param, "appendfsync": "always",
        "daemonize": "yes", "pidfile": tmp_path / "redis.pid", "save": '""',
    }  # fmt: skip
    conf.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    url = f"redis://127.0.0.1:{port}/0"
    names = {"SOMACTL_STORE": url, "CONF": str(conf), "DATA": str(data), "BACKUP": str(backup)}
    page = Page(shell, "STORE_REDIS.md", **names)
    start(conf, url)
    yield page, request.param
    subprocess.run(["redis-cli", "-u", url, "shutdown", "nosave"], capture_output=True, check=False)


def start(conf: Path, url: str) -> None:
    subprocess.run([find("redis-server"), conf], check=True, capture_output=True)
    for _ in range(100):
        if (
            b"PONG"
            in subprocess.run(["redis-cli", "-u", url, "ping"], capture_output=True, check=False).stdout
        ):
            return
    raise AssertionError("it does not start")


def test_redis(redis_page: tuple[Page, str]) -> None:
    page, appendonly = redis_page
    assert page("init").code == 0
    page.put("a", 1)
    page.run(1)
    before = page.incarnation()
    page.put("a", 2)
    page.run(2)
    if appendonly == "yes":
        page.run(3)
        subprocess.run(["redis-cli", "-u", page.env["SOMACTL_STORE"], "shutdown"], check=True)
        start(Path(page.env["CONF"]), page.env["SOMACTL_STORE"])
        page.run(4)
    else:  # it warns of what a crash loses, and finds no problem
        page.run(4)
    page.holds("a", 1)
    assert page.incarnation() != before


def test_a_snapshot_that_redis_ignored_is_noticed(redis_page: tuple[Page, str]) -> None:
    """The mistake that the page warns of: the snapshot put in place, and the server started as ever."""
    page, appendonly = redis_page
    if appendonly == "no":
        return
    assert page("init").code == 0
    page.put("a", 1)
    page.run(1)
    url, data = page.env["SOMACTL_STORE"], Path(page.env["DATA"])
    subprocess.run(["redis-cli", "-u", url, "shutdown", "nosave"], check=True)
    (data / "appendonlydir").rename(data / "aside")
    start(Path(page.env["CONF"]), url)
    refused = page("init", "--new-incarnation", "-o", "json")
    assert (refused.code, refused.error["error"]) == (15, "NamespaceNotFound")
    told = page("doctor", "-o", "json")
    assert (told.code, "dump.rdb" in told.text) == (3, True)
    assert page("commit", "a=value.npy").code == 15


@pytest.mark.parametrize("missing", ["file", "namespace"])
def test_a_new_incarnation_of_nothing_makes_no_file(shell: Shell, missing: str) -> None:
    if missing == "namespace":
        shell.commit("a", density(2), "--store", "sqlite:///wrong.db", "--namespace", "other")
    before = sorted(path.name for path in shell.folder.iterdir())
    refused = shell("init", "--new-incarnation", "--store", "sqlite:///wrong.db", "-o", "json")
    assert (refused.code, refused.error["error"]) == (15, "NamespaceNotFound")
    assert sorted(path.name for path in shell.folder.iterdir()) == before

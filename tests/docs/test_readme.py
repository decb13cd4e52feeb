"""The README, pasted line by line into a fresh clone; its fleet's URLs, with certificates; its picture."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt

from servers.postgres import PostgresServer
from servers.redis import RedisServer
from support.console import run_block

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [(t.info.strip(), t.content) for t in MarkdownIt().parse(README) if t.type == "fence"]

pytestmark = pytest.mark.source


def fresh_clone(folder: Path) -> Path:
    """The sources as git would have them, and an environment into which somactl is installed already."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    names = listed.stdout.split("\n") if listed.returncode == 0 else ["Makefile", "pyproject.toml"]
    for name in names:
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").mkdir()
    for part in Path(sys.prefix).iterdir():
        if part.name in ("bin", "lib", "lib64", "include", "pyvenv.cfg"):
            (folder / ".venv" / part.name).symlink_to(part)
    (folder / ".venv/installed").touch()
    return folder


def without_somactl() -> dict[str, str]:
    """The environment of a person who has installed nothing yet."""
    own = str(Path(sys.executable).parent)
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if p != own)
    return {"PATH": path, "HOME": os.environ.get("HOME", "/"), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def test_every_line_works_when_pasted_in_order(tmp_path: Path) -> None:
    language, start = BLOCKS[0]
    assert (language, start.splitlines()[0]) == ("sh", "make demo")
    pasted = "".join(f"$ {line}\n...\n" for line in start.splitlines())
    pasted += "".join(content for language, content in BLOCKS if language == "console")
    run_block(pasted, fresh_clone(tmp_path), without_somactl())


def test_the_urls_of_a_fleet_work_with_certificates(tmp_path: Path) -> None:
    (fleet,) = [content for language, content in BLOCKS if language == "sh" and "SOMACTL_STORE" in content]
    sound = {"fsync": "on", "full_page_writes": "on"}
    bounded = {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}
    with (
        PostgresServer(tmp_path, settings=sound, tls=True) as postgres,
        RedisServer(tmp_path, config=bounded, tls=True) as redis,
    ):
        database = postgres.create_database().rpartition("/")[2].partition("?")[0]
        there = {
            "soma@db.example/soma": f"{postgres.user}@127.0.0.1:{postgres.port}/{database}",
            "cache.example:6379": f"127.0.0.1:{redis.port}",
            "sslrootcert=/etc/ssl/our-ca.pem": f"sslrootcert={postgres.ca_file}",
            "ssl_ca_certs=/etc/ssl/our-ca.pem": f"ssl_ca_certs={redis.ca_file}",
        }
        for name, real in there.items():
            assert fleet.count(name) == 1
            fleet = fleet.replace(name, real)
        np.save(tmp_path / "rho.npy", np.diag([0.5, 0.3, 0.2]))
        environment = without_somactl() | {"PGPASSWORD": postgres.password}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        for line in ("set -e\n", 'set -e\nsomactl() { command somactl --namespace again "$@"; }\n'):
            done = subprocess.run(
                ["bash", "-c", line + fleet], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr + done.stdout
            assert "encrypted, certificate verified" in done.stdout


def test_the_picture_shows_a_session_that_takes_place() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs/picture.py", "--check"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    picture = (ROOT / "docs/terminal.svg").read_text(encoding="utf-8")
    assert "(docs/terminal.svg)" in README
    assert "url(" not in picture.replace("url(#", "")  # it fetches nothing when it is looked at

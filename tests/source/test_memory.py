"""A migration's memory does not depend on how many values there are, so a source's must not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.external import ExternalPostgres, ExternalRedis
from servers.postgres import PostgresServer
from servers.redis import RedisServer
from source.backends import PostgresBackend, RedisBackend, line

FEW, MANY = 2_000, 100_000
BOUND_KIB = 12 << 10

LISTING = """
import asyncio, re, sys
from pathlib import Path
from somactl.runtime import open_source
from somactl.legacy.source.workspace import Workspace

async def main():
    words = sys.argv[1:]
    async with open_source(words, stdin=sys.stdin.buffer) as source:
        with Workspace() as workspace:
            async for page in source.names(None):
                workspace.names.add(page)
            read = 0
            for page in workspace.names.pages():
                while page:
                    values = await source.fetch(page)
                    read += sum(value.state == "text" for value in values)
                    page = page[len(values):]
            # `getrusage` would tell the peak of the process that made this one, if that was higher.
            peak = re.search("VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
            print(len(workspace.names), read, peak[1])

asyncio.run(main())
"""


def peak_kib(source: str, count: int, stdin: Path | None = None) -> int:
    """The most memory of a process that lists and reads `count` values."""
    with open(stdin or os.devnull, "rb") as lines:
        done = subprocess.run(
            [sys.executable, "-c", LISTING, source],
            env={**os.environ, "OLD": os.environ.get("OLD", "")},
            stdin=lines,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    listed, read, peak = map(int, done.stdout.split())
    assert listed == read == count
    return peak


def key(number: int) -> str:
    return f"acme:({number}.0, 14.0, 43.0):data, with a key of some length, as they are: {number:032d}"


@pytest.fixture
def redis_backend(redis_server: RedisServer | ExternalRedis) -> Iterator[RedisBackend]:
    backend = RedisBackend(redis_server)
    yield backend
    backend.dispose()


@pytest.fixture
def postgres_backend(postgres_server: PostgresServer | ExternalPostgres) -> Iterator[PostgresBackend]:
    backend = PostgresBackend(postgres_server)
    yield backend
    backend.dispose()


def test_of_redis(redis_backend: RedisBackend) -> None:
    def fill(numbers: range) -> None:
        with redis_backend.server.client() as raw:
            raw.mset({key(number): "[1]" for number in numbers})

    fill(range(FEW))
    few = peak_kib(redis_backend.server.url, FEW)
    fill(range(FEW, MANY))
    assert peak_kib(redis_backend.server.url, MANY) < few + BOUND_KIB


async def test_of_postgres(postgres_backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLD", postgres_backend.direct_url)

    async def fill(numbers: range) -> None:
        async with postgres_backend.raw() as raw:
            await raw.copy_records_to_table("kv_store", records=[(key(number), "[1]") for number in numbers])

    await fill(range(FEW))
    few = peak_kib("env:OLD", FEW)
    await fill(range(FEW, MANY))
    assert peak_kib("env:OLD", MANY) < few + BOUND_KIB


def test_of_lines(tmp_path: Path) -> None:
    def file(count: int) -> Path:
        path = tmp_path / f"{count}.ndjson"
        path.write_bytes(b"".join(line(key(number), b"[1]") for number in range(count)))
        return path

    few = peak_kib("-", FEW, file(FEW))
    assert peak_kib("-", MANY, file(MANY)) < few + BOUND_KIB

"""A migration reads, and takes values out of, the database that its source names, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.redis import RedisServer
from tests.cli.conftest import Shell

VALUE = b"[[0.5, 0.0], [0.0, 0.5]]"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


def test_finalizing_a_database_named_by_a_parameter_leaves_database_0_alone(
    shell: Shell, redis: RedisServer
) -> None:
    with redis.client() as raw:
        for number in (0, 2):
            raw.select(number)
            raw.set("legacy", VALUE)
            raw.set(f"only in {number}", VALUE)
        source = f"redis://127.0.0.1:{redis.port}?db=2"
        copied = shell.ok("migrate-json", source, "-o", "json").json
        keys = [key["key"] for key in shell.ok("ls", "-o", "json").json["keys"]]
        assert keys == ["legacy", "only in 2"]
        # The same database, spelt in another way.
        spelt = ("--source", source.replace("?db=2", "/2"))
        shell.ok("migration", "finalize", copied["migration"], *spelt, "--yes")
        assert raw.dbsize() == 0
        raw.select(0)
        assert sorted(raw.keys()) == [b"legacy", b"only in 0"]


def test_a_source_that_contradicts_itself_is_not_touched(shell: Shell, redis: RedisServer) -> None:
    with redis.client() as raw:
        raw.set("legacy", VALUE)
        for place in ("/2?db=0", "?db=0&db=2", "/x", "?database=0"):
            url = f"redis://127.0.0.1:{redis.port}{place}"
            result = shell("migrate-json", url, "--dry-run")
            assert result.code == 10, result.err
        assert raw.dbsize() == 1
    assert not (shell.folder / "somactl.db").exists()

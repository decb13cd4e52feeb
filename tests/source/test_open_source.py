"""What the words of a command line open."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pytest

from servers.redis import RedisServer
from somactl.config import source_url
from somactl.errors import (
    ConfigurationError,
    InvalidFile,
    ReadOnlyStore,
    SecretExposed,
    SomactlError,
    UsageError,
)
from somactl.legacy.source.contract import Change, Value
from somactl.runtime import open_source
from source.backends import line
from source.suite import all_names


@pytest.mark.parametrize("words", [[], ["-"]])
async def test_without_a_name_the_lines_on_stdin_are_meant(words: Sequence[str]) -> None:
    async with open_source(words, stdin=io.BytesIO(line("a", b"1"))) as source:
        assert source.name == "ndjson"
        assert await all_names(source) == ["a"]


async def test_files_are_named_by_path_or_key(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_bytes(b"1")
    words = [str(tmp_path / "a.json"), f"acme:(1, 2)={tmp_path / 'b.json'}"]
    async with open_source(words) as source:
        assert sorted(await all_names(source)) == ["a", "acme:(1, 2)"]
        with pytest.raises(ReadOnlyStore):
            await source.swap([Change("a", b"1", b"2")])
    async with open_source(words, read_only=False) as source:
        assert await source.swap([Change("a", b"1", b"2")]) == [True]


async def test_servers_are_named_by_url(legacy_postgres: str, legacy_redis: RedisServer) -> None:
    # With a password, so not by the command line itself.
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OLD_DATABASE", f"{legacy_postgres}?table=public.kv_store")
        async with open_source(["env:OLD_DATABASE"]) as source:
            assert source.name == "postgres table public.kv_store"
            assert len(await all_names(source)) == 481
    async with open_source([legacy_redis.url]) as source:
        assert source.name == "redis"
        assert await source.fetch(["acme:note:text"]) == [
            Value("acme:note:text", "text", b"plain words, not JSON")
        ]


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (["postgresql://u:secret@h/db"], SecretExposed, "holds a password"),
        (["postgresql://u@h/db?password=secret"], SecretExposed, "holds a password"),
        (["redis://:secret@h"], SecretExposed, "holds a password"),
        (["env:NOT_SET"], ConfigurationError, "'NOT_SET' is to name the source, and is not set"),
        (["env:"], ConfigurationError, "is not set"),
        (["mysql://h/db"], ConfigurationError, "nothing is migrated from mysql:// URLs"),
        (["redis://h", "redis://g"], UsageError, "names a whole source"),
        (["redis://h", "a.json"], UsageError, "names a whole source"),
        (["postgresql://[h/db"], ConfigurationError, "no IPv6 address"),
        (["words"], UsageError, "names no values"),
        (["missing.json"], InvalidFile, "no such file"),
        ([], UsageError, "no source is named"),
    ],
)
async def test_what_cannot_be_opened_is_refused_without_a_secret(
    words: Sequence[str], error: type[SomactlError], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        async with open_source(words):
            pass
    assert type(caught.value) is error
    assert "secret" not in f"{caught.value} {caught.value.hint} {caught.value.facts}"


def test_a_variable_may_hold_what_the_command_line_may_not() -> None:
    url = "postgresql://u:secret@h/db"
    assert source_url("env:OLD", {"OLD": url}) == url
    with pytest.raises(ConfigurationError) as caught:
        source_url("env:OLD", {"OLD": "//u:secret@h"})
    assert "secret" not in f"{caught.value} {caught.value.hint}"

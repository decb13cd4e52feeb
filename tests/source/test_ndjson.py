"""Lines: which are values, and what becomes of those that are none."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import pytest

from somactl.errors import InvalidFile, ReadOnlyStore, StoreFull
from somactl.legacy.source import ndjson
from somactl.legacy.source.contract import Change, Value
from somactl.legacy.source.ndjson import NdjsonSource, split
from source.backends import line
from source.suite import all_names, all_values


async def contents(text: bytes, match: str | None = None) -> dict[str, Value]:
    source = NdjsonSource(io.BytesIO(text))
    names = await all_names(source, match)
    values = await all_values(source, names)
    await source.close()
    assert len(set(names)) == len(names)
    return {value.key: value for value in values}


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        (b'{"key": "a", "value": [[1, 0], [0, 1.50]]}', "a", b"[[1, 0], [0, 1.50]]"),
        (b'{"value":{"b":1,"a":2},"key":"a"}', "a", b'{"b":1,"a":2}'),
        (b' \t{ "key" :\t"a" , "value" :  1e400  } \r', "a", b"1e400"),
        (b'{"key": "a", "value": null}', "a", b"null"),
        (b'{"key": "a, \\"value\\": 1}", "value": 2}', 'a, "value": 1}', b"2"),
        (b'{"value": "x, \\"key\\": \\"y\\"", "key": "a"}', "a", b'"x, \\"key\\": \\"y\\""'),
        (b'{"value": {"key": "inner"}, "key": "a"}', "a", b'{"key": "inner"}'),
        (b'{"key": "\\u00e9\\ud83c\\udf89\\n", "value": 1}', "é🎉\n", b"1"),
        ('{"key": "é🎉", "value": "✓"}'.encode(), "é🎉", '"✓"'.encode()),
    ],
)
async def test_a_value_keeps_its_bytes(text: bytes, key: str, value: bytes) -> None:
    assert await contents(text) == {key: Value(key, "text", value)}


@pytest.mark.parametrize(
    "text",
    [
        b"words",
        b"[1, 2]",
        b"{}",
        b'{"key": "a"}',
        b'{"value": 1}',
        b'{"key": "a", "value": 1',
        b'{"key": 5, "value": 1}',
        b'{"key": null, "value": 1}',
        b'{"key": "\xff", "value": 1}',
        b'{"key": "\\ud800", "value": 1}',
        b'{"key": "a\\x", "value": 1}',
        b'{"key": "a", "key": "b", "value": 1}',
        b'{"id": 1, "key": "a", "value": 1}',
        b'{"value": {"key": "inner"}}',
        b"\x00",
        b'{"key": "a", "value": 1} {"key": "b", "value": 1}x',
        b'{"key":"a","value":[[0.5,0],[0,0.5]],"ts":12}',
        b'{"value":[[0.5,0],[0,0.5]],"ts":12,"key":"a"}',
        b'{"key": "a", "value": {"x": "]}"}, "ts": {"y": [1]}}',
        b'{"value": {"x": "]}"}, "ts": {"y": [1]}, "key": "a"}',
        b'{"key": "a", "value": "words", "ts": "12"}',
        b'{"value": null, "ts": 12, "key": "a"}',
        b'{"key": "a", "value": 1, "value": 2}',
        b'{"key":"a","value": 1}}',
        b'{"key":"a","value": [[1, 0], [0, 1]] garbage}',
        b'{"key":"a","value": }',
        b'{"value": , "key": "a"}',
        b'{"value": {"x": 1, "key": "inner"}',
    ],
)
async def test_a_line_that_is_no_value_is_one_that_cannot_be_read(text: bytes) -> None:
    found = await contents(line("before", b"1") + text + b"\n" + line("line 3", b"3"))
    assert list(found) == ["before", "line 3", "line 2"]
    value = found["line 2"]
    assert (value.state, value.data) == ("unreadable", b"")
    assert value.detail.startswith("line 2 ")


async def test_of_a_key_that_comes_twice_the_first_counts_and_the_second_is_said() -> None:
    found = await contents(line("a", b"1") + line("b", b"2") + line("a", b"3"))
    assert found["a"] == Value("a", "text", b"1")
    assert found["line 3"].detail == "line 3 has the key 'a', which line 1 has already"


async def test_a_line_without_a_key_matches_every_pattern_and_one_with_a_key_its_own() -> None:
    text = line("a", b"1") + line("a", b"2") + line("b", b"3") + b"rubbish\n"
    assert list(await contents(text, "a")) == ["a", "line 2", "line 4"]
    assert list(await contents(text, "b")) == ["b", "line 4"]


async def test_a_defect_never_takes_the_name_of_a_value() -> None:
    found = await contents(b"rubbish\n" + line("line 1", b"1") + line("line 1 of standard input", b"2"))
    assert found.pop("line 1").data == b"1"
    assert found.pop("line 1 of standard input").data == b"2"
    ((name, defect),) = found.items()
    assert defect == Value(name, "unreadable", detail=defect.detail)


async def test_blank_lines_a_mark_at_the_beginning_and_a_missing_end_are_no_matter() -> None:
    text = b"\xef\xbb\xbf" + line("a", b"1") + b"\n  \r\n" + line("b", b"2").rstrip()
    assert list(await contents(text)) == ["a", "b"]
    assert await contents(b"") == {}


async def test_a_line_that_is_too_long_is_skipped_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ndjson, "MAX_LINE_BYTES", 100)
    monkeypatch.setattr(ndjson, "_SKIPPED_AT_ONCE", 7)
    for size in (101, 150, 1000):
        text = line("a", b"1") + b"x" * size + b"\n" + line("b", b"2") + b"y" * size
        found = await contents(text)
        assert list(found) == ["a", "b", "line 2", "line 4"], size
        assert "is longer than" in found["line 2"].detail


async def test_deep_nesting_is_no_matter_here() -> None:
    deep = b"[" * 200_000 + b"]" * 200_000
    assert (await contents(line("a", deep)))["a"].data == deep


@pytest.mark.parametrize(
    "value",
    [
        b"[[1, 0], [0, 1]",
        b"[[1, 0}, [0, 1]]",
        b"garbage",
        b'"open',
        b"[NaN, -Infinity]",
        b'{"a": [1, {"b": ""}]',
    ],
)
async def test_a_broken_value_stays_with_its_key_for_whoever_reads_it(value: bytes) -> None:
    """There its key, and not a line, is named with what is wrong."""
    assert await contents(b'{"key": "a", "value": %s}' % value) == {"a": Value("a", "text", value)}


def test_the_end_of_a_value_is_found_in_a_time_that_is_linear_in_it() -> None:
    """A second would be ten times what it takes, and none what squares would."""
    for value in (b"[" * 500_000, b'{"' * 500_000, b'["a",' * 300_000 + b"1" + b"]" * 300_000):
        began = time.perf_counter()
        split(b'{"key": "a", "value": %s}' % value)
        assert time.perf_counter() - began < 5.0


async def test_the_same_lines_are_the_same_source_and_others_another() -> None:
    def identity(text: bytes) -> str:
        source = NdjsonSource(io.BytesIO(text))
        source._release()
        return source.identity

    assert identity(line("a", b"1")) == identity(line("a", b"1"))
    assert identity(line("a", b"1")) != identity(line("a", b"2"))


async def test_nothing_of_it_can_be_replaced() -> None:
    source = NdjsonSource(io.BytesIO(line("a", b"1")))
    assert not source.replaceable
    with pytest.raises(ReadOnlyStore):
        await source.swap([Change("a", b"1", b"2")])
    await source.close()


def test_a_stream_that_breaks_is_named() -> None:
    class Broken(io.RawIOBase):
        def readinto(self, buffer: object) -> int:
            raise OSError(5, "Input/output error")

        def readable(self) -> bool:
            return True

    with pytest.raises(InvalidFile, match="standard input: input/output error"):
        NdjsonSource(io.BufferedReader(Broken()))


def test_a_full_folder_for_temporary_files_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full takes no byte."""
    full = Path("/dev/full")
    for buffering in (0, -1):
        monkeypatch.setattr(ndjson.tempfile, "TemporaryFile", lambda b=buffering, **_: full.open("r+b", b))
        with pytest.raises(StoreFull, match="folder for temporary files"):
            NdjsonSource(io.BytesIO(line("a", b"1")))


def test_nothing_lies_about_where_a_process_may_be_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ndjson.tempfile, "tempdir", str(tmp_path))
    source = NdjsonSource(io.BytesIO(line("a", b"1" * 100_000)))
    assert os.listdir(tmp_path) == []
    source._release()


def test_split_reads_a_key_of_any_length_behind_a_value() -> None:
    key = "k" * 3000
    assert split(b'{"value": 1, "key": "%s"}' % key.encode()) == (key, b"1")

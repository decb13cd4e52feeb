"""Files: which words name them, and how they are changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from somactl.errors import InvalidFile, InvalidName, StoreUnavailable, UsageError
from somactl.legacy.source import files
from somactl.legacy.source.contract import Change, Value
from somactl.legacy.source.files import FilesSource, lasting_words, parse_words
from source.suite import all_names, plain


@pytest.mark.parametrize(
    ("words", "paths"),
    [
        (["a.json"], {"a": "a.json"}),
        (["/folder/a.b.json", "c.json"], {"a.b": "/folder/a.b.json", "c": "c.json"}),
        (["acme:(1, 2)=x.json"], {"acme:(1, 2)": "x.json"}),
        (["a=b=c.json"], {"a=b": "c.json"}),
        (["key=dump"], {"key": "dump"}),
    ],
)
def test_a_word_is_a_path_or_a_key_with_one(words: list[str], paths: dict[str, str]) -> None:
    assert parse_words(words) == paths


@pytest.mark.parametrize("word", ["a.txt", "a", "=a.json", "key=", ".json", ""])
def test_any_other_word_is_wrong_usage(word: str) -> None:
    with pytest.raises(UsageError, match="names no values"):
        parse_words([word])


def test_what_was_meant_is_said_of_a_folder_and_of_lines(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as folder:
        parse_words([str(tmp_path)])
    assert folder.value.hint == f"name the files in it: {tmp_path}/*.json"
    lines = tmp_path / "old.ndjson"
    lines.write_bytes(b"")
    with pytest.raises(UsageError) as file:
        parse_words([str(lines)])
    assert (file.value.hint or "").endswith(f"< {lines}")


def test_lasting_words_mean_the_same_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_bytes(b"1")
    monkeypatch.chdir(tmp_path)
    words = ["a.json", "k=x=a.json"]
    lasting = lasting_words(words)
    here = FilesSource(parse_words(words)).identity
    monkeypatch.chdir("/")
    assert FilesSource(parse_words(lasting)).identity == here
    odd = tmp_path / "b=c"
    odd.mkdir()
    monkeypatch.chdir(odd)
    assert lasting_words(["a.json"]) == []


def test_a_key_that_is_named_twice_is_refused() -> None:
    with pytest.raises(InvalidName, match="given twice"):
        parse_words(["x/a.json", "y/a.json"])


def test_a_file_that_is_not_there_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path, Path("a\0b.json"), tmp_path / "x.json" / "y.json"):
        with pytest.raises(InvalidFile):
            FilesSource({"a": str(path)})


async def test_a_file_that_may_be_put_back_need_not_be_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    source = FilesSource({"a": str(path)}, read_only=False)
    assert await all_names(source) == []
    assert await source.fetch(["a"]) == [Value("a", "gone")]
    assert await source.swap([Change("a", None, b"1")]) == [True]
    assert path.read_bytes() == b"1"
    assert await all_names(source) == ["a"]


async def test_a_file_keeps_its_permissions_and_its_folder_stays_clean(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"1")
    path.chmod(0o640)
    source = FilesSource({"a": str(path)}, read_only=False)
    assert await source.swap([Change("a", b"1", b"2")]) == [True]
    assert await source.swap([Change("a", b"1", b"3")]) == [False]
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755])
async def test_a_file_that_is_put_back_has_the_permissions_it_had(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"1")
    path.chmod(mode)
    owner = path.stat().st_uid, path.stat().st_gid
    source = FilesSource({"a": str(path)}, read_only=False)
    (value,) = await source.fetch(["a"])
    assert await source.swap([Change("a", value.data, None)]) == [True]
    later = FilesSource({"a": str(path)}, read_only=False)
    assert await later.swap([Change("a", None, value.data, None, value.attributes)]) == [True]
    assert path.stat().st_mode & 0o7777 == mode
    assert (path.stat().st_uid, path.stat().st_gid) == owner


@pytest.mark.parametrize("attributes", ["", "mode=644", "mode=0644 uid=x gid=0", "mode=99999 uid=0 gid=0"])
async def test_a_file_of_which_nobody_knows_the_permissions_is_for_its_owner_alone(
    tmp_path: Path, attributes: str
) -> None:
    path = tmp_path / "a.json"
    source = FilesSource({"a": str(path)}, read_only=False)
    assert await source.swap([Change("a", None, b"1", None, attributes)]) == [True]
    assert path.stat().st_mode & 0o7777 == 0o600


async def test_a_link_stays_one(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_bytes(b"1")
    link.symlink_to(real)
    source = FilesSource({"a": str(link)}, read_only=False)
    assert await source.swap([Change("a", b"1", b"2")]) == [True]
    assert link.is_symlink()
    assert real.read_bytes() == b"2"


async def test_a_crash_before_the_end_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"1")
    source = FilesSource({"a": str(path)}, read_only=False)

    def fail(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(StoreUnavailable, match="cannot be changed: Input/output error"):
        await source.swap([Change("a", b"1", b"2")])
    assert path.read_bytes() == b"1"
    assert os.listdir(tmp_path) == ["a.json"]


async def test_a_file_that_appears_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    source = FilesSource({"a": str(path)}, read_only=False)
    link = os.link

    def meanwhile(old: str, new: str) -> None:
        path.write_bytes(b"9")
        link(old, new)

    monkeypatch.setattr(files.os, "link", meanwhile)
    assert await source.swap([Change("a", None, b"1")]) == [False]
    assert path.read_bytes() == b"9"
    assert os.listdir(tmp_path) == ["a.json"]


async def test_a_file_that_cannot_be_read_is_said_to_be_so(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_bytes(b"1")
    bad.write_bytes(b"2")
    source = FilesSource({"good": str(good), "bad": str(bad)})
    bad.unlink()
    bad.mkdir()
    values = plain(await source.fetch(["bad", "good"]))
    assert values == [
        Value("bad", "unreadable", detail="a file that cannot be read: Is a directory"),
        Value("good", "text", b"1"),
    ]


async def test_the_same_files_are_the_same_source_wherever_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.json").write_bytes(b"1")
    absolute = FilesSource({"a": str(tmp_path / "a.json")})
    monkeypatch.chdir(tmp_path)
    assert FilesSource({"a": "a.json"}).identity == absolute.identity
    assert FilesSource({"b": "a.json"}).identity != absolute.identity

"""Names in order and texts by name, on a disk that may be full."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from somactl.errors import StoreFull
from somactl.legacy.source.workspace import PAGE_NAMES, Workspace, room

RAW = st.binary(max_size=12)


def text_of(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


@given(st.lists(st.lists(RAW, max_size=6), max_size=6), RAW, st.integers(1, 4))
def test_names_come_once_in_the_order_of_their_bytes(
    pages: list[list[bytes]], after: bytes, size: int
) -> None:
    expected = sorted({raw for page in pages for raw in page})
    with Workspace() as workspace:
        names = workspace.names
        for page in pages:
            names.add(map(text_of, page))
        assert len(names) == len(expected)
        assert [name for page in names.pages(size=size) for name in page] == list(map(text_of, expected))
        rest = [name for page in names.pages(text_of(after), size=size) for name in page]
        assert rest == [text_of(raw) for raw in expected if raw > after]


def test_an_empty_name_is_a_name() -> None:
    with Workspace() as workspace:
        workspace.names.add([""])
        assert list(workspace.names.pages()) == [[""]]
        assert list(workspace.names.pages(after="")) == []


def test_pages_are_short() -> None:
    names = [f"{number:05d}" for number in range(2 * PAGE_NAMES + 1)]
    random.Random(1).shuffle(names)
    with Workspace() as workspace:
        workspace.names.add(names)
        assert [len(page) for page in workspace.names.pages()] == [PAGE_NAMES, PAGE_NAMES, 1]


def test_names_may_be_added_while_others_are_read() -> None:
    with Workspace() as workspace:
        workspace.names.add(["a", "c"])
        pages = workspace.names.pages(size=1)
        assert next(pages) == ["a"]
        workspace.names.add(["0", "b"])
        assert list(pages) == [["b"], ["c"]]


def test_a_text_stands_under_its_name() -> None:
    with Workspace() as workspace:
        texts = workspace.texts
        assert texts.get("a") is None
        texts.put("a", "1")
        texts.put("a\udcff", "\udcfe")
        texts.put("a", "2")
        assert (texts.get("a"), texts.get("a\udcff")) == ("2", "\udcfe")


def test_a_full_disk_is_named() -> None:
    with Workspace() as workspace:
        workspace._database.execute("PRAGMA max_page_count = 40")
        with pytest.raises(StoreFull, match="folder for temporary files") as caught:
            workspace.names.add(f"{number:0500d}" for number in range(1000))
    assert "TMPDIR" in str(caught.value.hint)


def test_what_is_no_matter_of_the_disk_is_not_taken_for_one() -> None:
    with pytest.raises(sqlite3.IntegrityError), room():
        raise sqlite3.IntegrityError("a bug")


KILLED = """
import glob, os, signal
from somactl.legacy.source.workspace import Workspace
workspace = Workspace()
workspace.names.add(f"{number:0500d}" for number in range(100_000))
size = 0
for name in glob.glob("/proc/self/fd/*"):
    if os.path.lexists(name) and os.readlink(name).endswith("(deleted)"):
        size += os.stat(name).st_size
print(size, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_nothing_behind(tmp_path: Path) -> None:
    """It had written 50 MB there."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        env={**os.environ, "TMPDIR": str(tmp_path), "SQLITE_TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    assert int(done.stdout) > 40_000_000
    assert list(tmp_path.iterdir()) == []

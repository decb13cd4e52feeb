"""Notes in a file: the contract of a store's notes, among many processes, kills and full disks."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import json
import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from somactl.errors import (
    InputRejected,
    SchemaMismatch,
    StoreBusy,
    StoreFull,
    StoreUnavailable,
    TargetRefused,
    VersionConflict,
)
from somactl.operations.jobs import notes_file
from somactl.operations.jobs.notes_file import NotesFile
from somactl.store.contract import Note
from somactl.store.sqlite import SqliteStore
from somactl.store.wrapper import StoreWrapper
from somactl.testing.arguments import ArgumentChapter, ArgumentReadChapter
from somactl.testing.notes import NoteChapter, NoteReadChapter
from support.sqlite_backend import SqliteBackend

PROCESS = Path(__file__).with_name("notes_process.py")


class Beside(StoreWrapper):
    """A store whose notes are in a file."""

    def __init__(self, store: SqliteStore, path: Path) -> None:
        super().__init__(store)
        self._notes = NotesFile(str(path), store.namespace)

    async def read_notes(self, names: Sequence[str]) -> dict[str, Note]:
        return await self._notes.read_notes(names)

    async def write_notes(
        self, changes: Mapping[str, bytes | None], expected: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        return await self._notes.write_notes(changes, expected)

    async def scan_notes(self, prefix: str = "", after: str | None = None) -> AsyncIterator[list[Note]]:
        async for page in self._notes.scan_notes(prefix, after):
            yield page

    async def close(self) -> None:
        await self._notes.close()
        await super().close()


class BesideBackend(SqliteBackend):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "store.db")
        self.notes = folder / "notes.json"

    def open(self, namespace: str = "default") -> Any:
        return Beside(super().open(namespace), self.notes)

    async def age(self, namespace: str, seconds: float) -> None:
        await super().age(namespace, seconds)
        content = json.loads(self.notes.read_bytes())
        for note in content["notes"][namespace].values():
            note[1] -= seconds
        self.notes.write_text(json.dumps(content))


class TestNotesFile(NoteReadChapter, NoteChapter, ArgumentReadChapter, ArgumentChapter):
    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], BesideBackend]:
        return lambda: BesideBackend(tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.json"


async def kept(path: Path) -> dict[str, bytes | None]:
    notes = NotesFile(str(path))
    names = [note.name async for page in notes.scan_notes() for note in page]
    return {name: note.data for name, note in (await notes.read_notes(names)).items()}


async def test_a_new_file_is_its_owner_s_and_says_what_it_is(path: Path) -> None:
    assert await kept(path) == {}
    assert not path.exists()
    await NotesFile(str(path), "tenant").write_notes({"n": b"\xff"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = json.loads(path.read_bytes())
    assert (content["somactl"], content["format"]) == ("notes", 1)
    assert content["notes"]["tenant"]["n"][2] == base64.b64encode(b"\xff").decode()
    assert [each.name for each in path.parent.iterdir()] == [path.name]


async def test_the_mode_of_a_file_stays(path: Path) -> None:
    path.touch(0o600)
    path.chmod(0o640)
    await NotesFile(str(path)).write_notes({"n": b"x"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_links_are_followed_and_stay(path: Path) -> None:
    folder = path.parent / "elsewhere"
    folder.mkdir()
    path.symlink_to("second")
    (path.parent / "second").symlink_to(folder / "file")
    await NotesFile(str(path)).write_notes({"n": b"1"})
    await NotesFile(str(path)).write_notes({"n": b"2"})
    assert path.is_symlink()
    assert (path.parent / "second").is_symlink()
    assert await kept(folder / "file") == {"n": b"2"}
    assert [each.name for each in folder.iterdir()] == ["file"]


async def test_of_a_write_that_is_refused_nothing_is_left(path: Path) -> None:
    with pytest.raises(VersionConflict):
        await NotesFile(str(path)).write_notes({"n": b"1"}, {"n": 3})
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    "data",
    [
        b"acme: 1\n",
        b"{}",
        b"[1]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"somactl": "evidence", "format": 1}',
        b'{"somactl": "notes", "format": 1, "notes": {"default": {"n": 1}}}',
        b'{"somactl": "notes", "format": 1, "notes": {"default": {"n": [1, 0, "not base64"]}}}',
        b'{"somactl": "notes", "format": 1} and more',
    ],
)
async def test_a_file_that_is_not_ours_is_left_as_it_is(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    notes = NotesFile(str(path))
    for call in (notes.read_notes(["n"]), notes.write_notes({"n": b"x"})):
        with pytest.raises(InputRejected, match="holds no notes of somactl") as caught:
            await call
        assert caught.value.hint == "name another FILE, or one that does not exist yet"
    assert path.read_bytes() == data


async def test_a_newer_file_is_left_to_the_somactl_that_wrote_it(path: Path) -> None:
    path.write_bytes(b'{"somactl": "notes", "format": 2, "notes": 5}')
    with pytest.raises(SchemaMismatch, match="newer somactl"):
        await NotesFile(str(path)).write_notes({"n": b"x"})


async def test_a_file_too_large_to_be_ours_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await NotesFile(str(path)).write_notes({"n": b"x"})
    monkeypatch.setattr(notes_file, "MAX_FILE_BYTES", path.stat().st_size - 1)
    with pytest.raises(InputRejected):
        await NotesFile(str(path)).read_notes(["n"])


@pytest.mark.parametrize(
    "name", ["/dev/null", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "", "a/", "a\0b", "."]
)
async def test_what_is_no_file_is_refused(name: str) -> None:
    before = os.stat("/dev/null")
    notes = NotesFile(name)
    for call in (notes.read_notes(["n"]), notes.write_notes({"n": b"x"})):
        with pytest.raises(TargetRefused, match="cannot be used for notes") as caught:
            await call
        assert caught.value.hint == "name another FILE"
    assert os.stat("/dev/null") == before


async def test_a_fifo_is_refused_without_waiting(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(TargetRefused, match="no regular file"):
        await NotesFile(str(path)).write_notes({"n": b"x"})


async def test_a_folder_that_is_missing_is_named(path: Path) -> None:
    notes = NotesFile(str(path.parent / "some where" / "ledger"))
    assert await notes.read_notes(["n"]) == {}
    with pytest.raises(TargetRefused) as caught:
        await notes.write_notes({"n": b"x"})
    assert caught.value.hint == f"mkdir -p '{path.parent}/some where'"


async def test_a_right_that_is_missing_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(TargetRefused, match="permission denied"):
        await NotesFile(str(path)).write_notes({"n": b"x"})


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_leaves_the_old_file(path: Path) -> None:
    notes = NotesFile(str(path))
    await notes.write_notes({"n": b"old"})
    before = path.read_bytes()
    with largest_file(1000):
        with pytest.raises(StoreFull, match="it is as it was") as caught:
            await notes.write_notes({"n": b"new" * 1000})
        assert await kept(path) == {"n": b"old"}
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert caught.value.hint == "free space there, or name another FILE"
    await notes.write_notes({"n": b"new" * 1000}, {"n": 1})


@pytest.mark.parametrize("failing", ["fsync", "replace", "fchmod"])
async def test_a_disk_that_fails_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    notes = NotesFile(str(path))
    await notes.write_notes({"n": b"old"})

    def fail(*arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(StoreUnavailable, match="input/output error"):
        await notes.write_notes({"n": b"new"})
    monkeypatch.undo()
    assert await kept(path) == {"n": b"old"}
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    await notes.write_notes({"n": b"new"}, {"n": 1})


async def test_the_lock_of_another_process_is_waited_for_and_not_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await NotesFile(str(path)).write_notes({"n": b"1"})
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with notes_file._locked(str(path)):
            held.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    monkeypatch.setattr(notes_file, "LOCK_SECONDS", 0.05)
    with pytest.raises(StoreBusy, match="another process holds its lock"):
        await NotesFile(str(path)).write_notes({"n": b"2"})
    assert await kept(path) == {"n": b"1"}  # who reads needs no lock
    monkeypatch.setattr(notes_file, "LOCK_SECONDS", 10.0)
    waiting = asyncio.create_task(NotesFile(str(path)).write_notes({"n": b"2"}, {"n": 1}))
    await asyncio.sleep(0.02)
    release.set()
    assert await waiting == {"n": 2}
    thread.join()


async def test_a_lock_on_a_file_that_was_replaced_meanwhile_is_none(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await NotesFile(str(path)).write_notes({"n": b"1"})
    await NotesFile(f"{path}2").write_notes({"n": b"1", "other": b"x"})
    lock = notes_file._lock
    with contextlib.ExitStack() as held:

        def late(descriptor: int) -> bool:
            """Between opening and locking another process replaces the file, and has the new one's lock."""
            monkeypatch.setattr(notes_file, "_lock", lock)
            os.replace(f"{path}2", path)
            held.enter_context(notes_file._locked(str(path)))
            return lock(descriptor)

        monkeypatch.setattr(notes_file, "_lock", late)
        monkeypatch.setattr(notes_file, "LOCK_SECONDS", 0.05)
        with pytest.raises(StoreBusy):
            await NotesFile(str(path)).write_notes({"n": b"2"})
    await NotesFile(str(path)).write_notes({"n": b"2"}, {"n": 1, "other": 1})
    assert await kept(path) == {"n": b"2", "other": b"x"}


async def test_what_a_killed_writer_left_is_used_up(path: Path) -> None:
    (path.parent / ".ledger.json.new").write_bytes(b"half of")
    await NotesFile(str(path)).write_notes({"n": b"1"})
    assert [each.name for each in path.parent.iterdir()] == [path.name]


async def test_the_event_loop_goes_on_while_a_file_is_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_thread, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    load = notes_file._load

    def slowly(name: str) -> Any:
        loop.call_soon_threadsafe(on_a_thread.set)
        go_on.wait(10)
        return load(name)

    monkeypatch.setattr(notes_file, "_load", slowly)
    reading = asyncio.create_task(NotesFile(str(path)).read_notes(["n"]))
    await asyncio.wait_for(on_a_thread.wait(), 10)
    assert not reading.done()
    go_on.set()
    assert await reading == {}


@pytest.fixture
def processes(path: Path) -> Iterator[Callable[[int], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(count: int) -> subprocess.Popen[str]:
        command = [sys.executable, str(PROCESS), str(path), str(count)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


async def test_two_processes_lose_no_write_of_each_other(
    path: Path, processes: Callable[[int], subprocess.Popen[str]]
) -> None:
    racing = [processes(40), processes(40)]
    for process in racing:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate(timeout=60)[0].split() for process in racing]
    assert [process.returncode for process in racing] == [0, 0]
    assert sorted(int(each) for lines in told for each in lines) == list(range(1, 81))
    (note,) = (await NotesFile(str(path)).read_notes(["sum"])).values()
    assert (note.version, note.data) == (80, b"80")


async def test_a_killed_writer_tears_nothing_and_loses_nothing_acknowledged(
    path: Path, processes: Callable[[int], subprocess.Popen[str]]
) -> None:
    acknowledged = 0
    for number in range(4):
        process = processes(100_000)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        lines = [process.stdout.readline() for _ in range(2 + number)]
        process.kill()
        lines += process.stdout.readlines()
        acknowledged = int(lines[-1])
        there = await kept(path)
        counted = int(there["sum"] or b"")
        assert acknowledged <= counted <= acknowledged + 1
        assert there["filling"] == b"x" * ((counted - 1) % 7 * 1000)
    await NotesFile(str(path)).write_notes({"after": b"x"})
    assert [each.name for each in path.parent.iterdir()] == [path.name]

"""Files that commands write: whole or not at all, with their rights, and nothing replaced that is no file."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from somactl.cli.output_file import OutputFile, descriptor_of, is_stdout
from somactl.errors import ResultNotWritten, TargetRefused
from tests.cli.conftest import Shell, density

CLI = Path(__file__).resolve().parents[2] / "somactl" / "cli"
LINES = (
    b'{"key": "b", "value": {"__np__": true, "data": "AAAAAAAA8D8=", "dtype": "float64", "shape": [1, 1]}}\n'
)
COMMANDS: dict[str, tuple[list[str], bytes]] = {
    "get": (["get", "a", "--as", "json", "--to"], b""),
    "plan": (["migrate-json", "--dry-run", "--plan-file"], LINES),
}
NOBODYS_ID = 65534


@pytest.fixture
def kept(shell: Shell) -> Shell:
    shell.commit("a", density(3))
    return shell


@pytest.fixture(params=COMMANDS)
def to(request: pytest.FixtureRequest, kept: Shell) -> Callable[..., tuple[int, str]]:
    """Run each command that writes a file, with this one as its target; exit code and stderr."""
    words, stdin = COMMANDS[request.param]

    def run(target: str, **options: object) -> tuple[int, str]:
        result = kept(*words, target, stdin=stdin, **options)  # type: ignore[arg-type]
        return result.code, result.err

    return run


To = Callable[..., tuple[int, str]]


def put(path: Path, data: bytes = b"new") -> None:
    with OutputFile(str(path)) as target:
        target.write(data)
        target.keep()


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".somactl-")]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002], ids=oct)
def test_a_new_file_has_what_the_umask_leaves(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        put(tmp_path / "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o666, 0o755], ids=oct)
def test_an_existing_file_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    (tmp_path / "old").write_text("what was there")
    (tmp_path / "old").chmod(mode)
    put(tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == mode
    assert leftovers(tmp_path) == []


def test_a_link_stays_its_target_keeps_its_mode_and_is_replaced(kept: Shell, to: To) -> None:
    kept.write("target", "what was there")
    (kept.folder / "target").chmod(0o664)
    (kept.folder / "link").symlink_to("target")
    code, err = to("link")
    assert code == 0, err
    assert os.readlink(kept.folder / "link") == "target"
    assert (kept.folder / "target").read_bytes() != b"what was there"
    assert stat.S_IMODE((kept.folder / "target").stat().st_mode) == 0o664


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_an_existing_file_keeps_its_owner(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("what was there")
    os.chown(tmp_path / "old", NOBODYS_ID, NOBODYS_ID)
    put(tmp_path / "old")
    found = (tmp_path / "old").stat()
    assert (found.st_uid, found.st_gid) == (NOBODYS_ID, NOBODYS_ID)


@pytest.mark.parametrize("exists", [True, False], ids=["there", "dangling"])
@pytest.mark.parametrize("hops", [1, 2])
def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path, exists: bool, hops: int) -> None:
    folder = tmp_path / "far"
    folder.mkdir()
    if exists:
        (folder / "target").write_text("what was there")
    (folder / "1").symlink_to("target")
    (folder / "2").symlink_to(folder / "1")
    before = os.readlink(folder / str(hops))
    put(folder / str(hops))
    assert os.readlink(folder / str(hops)) == before
    assert (folder / "target").read_bytes() == b"new"


def test_a_device_is_written_through(kept: Shell, to: To) -> None:
    node = str(kept.folder / "null")
    if os.geteuid() == 0:
        os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    else:
        os.symlink("/dev/null", node)
    code, err = to(node)
    assert code == 0, err
    found = os.stat(node)
    assert (stat.S_ISCHR(found.st_mode), found.st_rdev) == (True, os.makedev(1, 3))
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_full_device_is_17_and_says_so(to: To) -> None:
    code, err = to("/dev/full")
    assert code == 17, err
    assert "/dev/full: cannot be written: no space left on device" in err
    assert "bug" not in err


def test_a_fifo_is_written_through(kept: Shell, to: To) -> None:
    fifo = kept.folder / "fifo"
    os.mkfifo(fifo)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()), daemon=True)
    reader.start()
    code, err = to("fifo")
    assert code == 0, err
    reader.join(60)
    assert got[0]
    assert stat.S_ISFIFO(os.stat(fifo).st_mode)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_wait_for_who_reads_a_fifo(kept: Shell, number: signal.Signals, code: int) -> None:
    os.mkfifo(kept.folder / "fifo")
    process = kept.begin("get", "a", "--to", "fifo")
    time.sleep(0.5)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, b"Traceback" in err) == (code, False), err


def test_another_name_of_stdout_is_stdout(kept: Shell) -> None:
    value = kept.ok("get", "a").out
    for name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        assert kept.ok("get", "a", "--to", name).out == value
    log = kept.folder / "log"
    log.write_bytes(b"before\n")
    with log.open("ab") as file:
        code = kept.begin("get", "a", "--to", "/dev/stdout", stdout=file, stderr=None).wait(timeout=60)
    assert (code, log.read_bytes()) == (0, b"before\n" + value)


def test_a_descriptor_is_written_where_it_stands(kept: Shell, to: To) -> None:
    log = kept.folder / "log"
    log.write_bytes(b"before\n")
    with log.open("ab") as file:
        code, err = to(f"/dev/fd/{file.fileno()}", pass_fds=[file.fileno()])
    assert code == 0, err
    assert log.read_bytes().startswith(b"before\n")
    assert log.stat().st_size > len(b"before\n")


REFUSED: dict[str, tuple[str, str]] = {
    "a folder": ("folder", "it is a folder"),
    "a folder by its name": ("folder/", "it names a folder"),
    "a folder that is not there": ("nowhere/", "it names a folder"),
    "a missing parent": ("no/such/folder/x", "no such file or directory"),
    "a link into a missing parent": ("dangling", "no such file or directory"),
    "a loop of links": ("loop", "too many levels of symbolic links"),
    "below a file": ("file/x", "not a directory"),
    "no name": ("", "the name is empty"),
    "a name too long": ("x" * 300, "file name too long"),
    "a socket": ("socket", "it is a socket"),
    "a closed descriptor": ("/dev/fd/77", "bad file descriptor"),
    "a descriptor to read": ("/dev/stdin", "not open for writing"),
    "the store itself": ("somactl.db", "the command reads this very file"),
    "the store by a link": ("alias", "the command reads this very file"),
}


@pytest.fixture
def obstacles(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "somactl.db").write_text("a database")
    (tmp_path / "dangling").symlink_to("no/such/folder/x")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "alias").symlink_to("somactl.db")
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(tmp_path):
        server.bind("socket")
        yield tmp_path


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_written_is_refused(obstacles: Path, what: str) -> None:
    name, why = REFUSED[what]
    before = {path.name: path.lstat().st_mode for path in obstacles.iterdir()}
    target = OutputFile(name, spare=["somactl.db", "somactl.db-wal"])
    with pytest.raises(TargetRefused, match=why), target:
        pass
    assert {path.name: path.lstat().st_mode for path in obstacles.iterdir()} == before
    assert (obstacles / "somactl.db").read_text() == "a database"


def test_the_database_is_not_written_over(kept: Shell, to: To) -> None:
    (kept.folder / "alias").symlink_to("somactl.db")
    code, err = to("alias")
    assert (code, "this very file" in err) == (11, True), err
    assert kept.ok("ls", "-o", "json").json["total"] == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_before_any_work_is_before_the_store_is_asked(shell: Shell, command: str) -> None:
    """The store is not there: of two faults the target's is told, since it is looked at first."""
    words, stdin = COMMANDS[command]
    result = shell(*words, "no/such/x", stdin=stdin, env={"SOMACTL_STORE": "redis://127.0.0.1:1/0"})
    assert result.code == 11, result.err
    assert "mkdir -p" in result.err


def test_a_plan_is_not_written_over_its_source(kept: Shell) -> None:
    source = kept.write("value.json", "[[1.0]]")
    result = kept("migrate-json", source, "--dry-run", "--plan-file", source)
    assert (result.code, (kept.folder / source).read_text()) == (11, "[[1.0]]")


@pytest.mark.skipif(os.geteuid() != 0, reason="as another user the whole test would have to run")
@pytest.mark.parametrize(
    ("folder_mode", "file_mode"), [(0o555, None), (0o777, 0o444), (0o555, 0o666)], ids=str
)
def test_no_right_is_refused_at_once(tmp_path: Path, folder_mode: int, file_mode: int | None) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    if file_mode is not None:
        (folder / "x").write_text("old")
        (folder / "x").chmod(file_mode)
    folder.chmod(folder_mode)
    for each in (tmp_path, *tmp_path.parents):
        if each.owner() == "root" and not each.stat().st_mode & 0o001:
            each.chmod(each.stat().st_mode | 0o011)  # pytest's own folders, which are closed to others
    os.setegid(NOBODYS_ID)
    os.seteuid(NOBODYS_ID)
    try:
        with pytest.raises(TargetRefused, match="permission denied"), OutputFile(str(folder / "x")):
            pass
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_nothing_is_left_of_what_was_not_kept(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with contextlib.suppress(ZeroDivisionError), OutputFile(str(tmp_path / "x")) as target:
        target.write(b"half" * 100_000)
        raise ZeroDivisionError
    assert ((tmp_path / "x").read_text(), leftovers(tmp_path)) == ("old", [])


def test_a_folder_that_vanishes_meanwhile_is_17(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with OutputFile(str(folder / "x")) as target:
        target.write(b"value")
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        with pytest.raises(ResultNotWritten, match="no such file") as caught:
            target.keep()
    assert caught.value.exit_code == 17


@pytest.mark.parametrize("size", [10, 1 << 20])
def test_a_disk_that_is_full_leaves_the_old_file(tmp_path: Path, size: int) -> None:
    """RLIMIT_FSIZE stands for the disk: a write beyond it fails half-way."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from somactl.cli.output_file import OutputFile; from somactl.errors import ResultNotWritten\n"
        "with OutputFile('old') as target:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (5, 5))\n"
        f"    try: target.write(b'x' * {size}); target.keep()\n"
        "    except ResultNotWritten as exc: print(exc.message)\n"
    )
    (tmp_path / "old").write_text("what was there")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "old: cannot be written: file too large" in done.stdout, done.stderr
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old", "what was there")]


def test_names_of_descriptors(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/fd/5")
    names = {"/dev/stdout": 1, "/dev/stderr": 2, f"/proc/{os.getpid()}/fd/7": 7, str(tmp_path / "link"): 5}
    assert {name: descriptor_of(name) for name in names} == names
    for name in ("1", "x", "/dev/null", str(tmp_path / "1"), "/dev/fd", ""):
        assert descriptor_of(name) is None
    assert [is_stdout(name) for name in ("-", "/dev/fd/1", "/dev/fd/2", "a\0b")] == [True, True, False, False]


def test_the_report_names_the_file(kept: Shell) -> None:
    assert json.loads(kept.ok("get", "a", "--to", "x", "-o", "json").out)["file"] == "x"


# What may write files or move them, and where in the command line that is allowed.
WRITERS = {
    "output_file.py": {"os.open", "os.replace", "os.unlink"},
    "text.py": {"os.open"},
    "commands/tour.py": {"tempfile"},
}
CALLS = {"os.open", "os.replace", "os.rename", "os.link", "os.unlink", "os.remove", "os.truncate", "io.open"}
METHODS = {"write_text", "write_bytes", "touch", "unlink", "rename"}


def _writes(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from {"tempfile", "shutil"} & set(names)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        modes = [
            a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)
        ]
        opens = name.rpartition(".")[2] in ("open", "fdopen") and any(map(_to_write, modes))
        if opens or name in CALLS or name.rpartition(".")[2] in METHODS:
            yield name


def _to_write(mode: object) -> bool:
    return isinstance(mode, str) and bool(set(mode) & set("wax+")) and set(mode) <= set("rwaxbt+")


def test_nothing_else_in_the_command_line_writes_files() -> None:
    found = {
        path.relative_to(CLI).as_posix(): set(_writes(ast.parse(path.read_text(encoding="utf-8"))))
        for path in CLI.rglob("*.py")
    }
    assert {name: calls for name, calls in found.items() if calls} == WRITERS


def test_the_search_for_writers_finds_them() -> None:
    calls = ["open(p, 'w')", "open(p, mode='ab')", "q.open('x')", "p.write_text('')", "os.replace(a, b)"]
    found = {"tempfile", "shutil", "open", "q.open", "p.write_text", "os.replace"}
    assert set(_writes(ast.parse("\n".join(["import tempfile, shutil", *calls])))) == found
    assert list(_writes(ast.parse("open(p)\nopen(p, 'rb')\nx.write(b'')"))) == []

"""Each bad input: one clear error that names it, the documented exit code, nothing written."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import sqlite3
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from support.pipes import wait_until_read
from tests.cli.conftest import Shell, density, with_smallest_eigenvalue


def npy(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def nan_at(i: int, j: int) -> np.ndarray:
    rho = density(6)
    rho[i, j] = np.nan
    return rho


def asymmetric() -> np.ndarray:
    rho = density(6)
    rho[0, 5] += 1e-3
    return rho


FILES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "empty"),
    "text": (b"hello there", ""),
    "pickle": (npy(np.array([[object()]]), allow_pickle=True), "object"),
    "truncated": (npy(density(6))[:-8], ""),
    "one-dimensional": (npy(np.ones(4)), "shape"),
    "not-square": (npy(np.ones((2, 3))), "square"),
    "booleans": (npy(np.eye(2, dtype=bool)), "bool"),
    "strings": (npy(np.array([["a", "b"], ["c", "d"]])), ""),
    "nan": (npy(nan_at(1, 4)), ""),
    "nan-in-the-upper-triangle": (npy(nan_at(4, 1)), ""),
    "infinite": (npy(np.diag([np.inf, 1.0])), ""),
    "far-negative": (npy(with_smallest_eigenvalue(density(6), -1e-2)), "a witness proves"),
    "trace-of-two": (npy(density(6) * 2), "trace"),
    "not-hermitian": (npy(asymmetric()), "ermitian"),
    "ragged": (b"[[1.0, 2.0], [3.0]]", ""),
    "empty-list": (b"[]", ""),
    "strings-for-numbers": (b'[["1", "0"], ["0", "1"]]', ""),
    "json-booleans": (b"[[true, false], [false, true]]", ""),
    "json-nan": (b"[[NaN, 0], [0, 1]]", ""),
    "too-deep": (b"[" * 5000 + b"]" * 5000, ""),
    "huge-shape": (b'{"__np__": true, "data": "", "dtype": "float64", "shape": [1000000, 1000000]}', ""),
    "negative-shape": (b'{"__np__": true, "data": "", "dtype": "float64", "shape": [-1, 2]}', ""),
    "object-dtype": (b'{"__np__": true, "data": "AAAA", "dtype": "object", "shape": [1, 1]}', ""),
    "truncated-envelope": (b"", ""),
    "extended-envelope": (b"", ""),
    "flipped-envelope": (b"", ""),
}


@pytest.fixture(scope="module")
def envelope(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An envelope of key `a`."""
    shell = Shell(tmp_path_factory.mktemp("envelope"))
    shell.commit("a", density(8))
    return shell.ok("get", "a").out


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_refused_whole(shell: Shell, envelope: bytes, name: str) -> None:
    content, says = FILES[name]
    spoilt = {
        "truncated-envelope": envelope[:-1],
        "extended-envelope": envelope + b"\0",
        "flipped-envelope": envelope[:-20] + bytes([envelope[-20] ^ 1]) + envelope[-19:],
    }
    bad = shell.write("bad", spoilt.get(name, content))
    good = shell.save("good.npy", density(4))
    result = shell("commit", f"ok={good}", f"a={bad}", "-o", "json")
    assert result.code == 11, result.err
    assert "bad" in result.error["message"] or "'a'" in result.error["message"]
    assert says in result.error["message"]
    assert result.out == b""
    assert "Traceback" not in result.err
    assert shell.is_empty()


def test_an_envelope_for_another_key_is_refused(shell: Shell, envelope: bytes) -> None:
    shell.write("a.env", envelope)
    result = shell("commit", "b=a.env", "-o", "json")
    assert (result.code, result.error["error"]) == (11, "WrongAddress")
    shell.ok("commit", "b=a.env", "--readdress")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["commit", "no-equals-sign"], 2),
        (["commit", "a=missing.npy"], 11),
        (["commit", "a=."], 11),
        (["commit", "a=good.npy", "a=good.npy"], 11),
        (["commit", "=good.npy"], 11),
        (["commit", "new\nline=good.npy"], 11),
        (["commit", "k" * 1025 + "=good.npy"], 11),
        (["commit", "a=good.npy", "--expect", "soon"], 2),
        (["commit", "a=good.npy", "--expect", "1", "--expect", "a=1"], 2),
        (["commit", "a=good.npy", "--metadata", "novalue"], 2),
        (["commit", "a=good.npy", "--commit-id", "with space"], 11),
        (["commit", "a=good.npy", "--dtype", "int8"], 2),
        (["commit", "a=good.npy", "--namespace", "with space"], 2),
        (["commit", "a=good.npy", "--psd-tolerance", "-1"], 2),
        (["commit", "a=good.npy", "--output", "xml"], 2),
        (["commit", "a=good.npy", "--store", "nonsense"], 2),
        (["commit", "a=good.npy", "--store", "mongodb://host/db"], 10),
        (["commit", "a=good.npy", "--store", "postgresql://me:secret@host/db"], 10),
        (["commit", "a=good.npy", "--store", "sqlite:///no/such/folder/x.db"], 13),
        (["commit", "a=good.npy", "--require-durability", "replicated:2", "--output", "json"], 0),
        (["get", "nothing"], 15),
        (["ls"], 15),
        (["status", "unknown"], 15),
        (["restore", "a"], 15),
        (["restore", "--version", "1"], 2),
        (["restore", "--commit", "unknown"], 15),
        (["rm", "nothing"], 15),
        (["verify-psd"], 2),
        (["verify-psd", "--file", "good.npy", "--method", "guess"], 2),
        (["frobnicate"], 2),
        (["ls", "--no-such-flag"], 2),
        (["ls", "--config", "missing.toml"], 10),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else None,
)
def test_a_bad_command_line_gets_its_code(shell: Shell, words: list[str], code: int) -> None:
    shell.save("good.npy", density(4))
    result = shell(*words)
    assert result.code == code, result.err
    if code:
        assert result.out == b""
        assert result.err.count("error: ") == 1
        assert "Traceback" not in result.err
        assert "secret" not in result.err
        assert shell.is_empty()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('tolerance = "1e-8"\n', "tolerance"),
        ("store = [1]\n", "store"),
        ("store =\n", "TOML"),
        ('psd_tolerance = "big"\n', "psd_tolerance"),
    ],
)
def test_a_bad_configuration_file_is_named(shell: Shell, content: str, says: str) -> None:
    shell.write("conf.toml", content)
    result = shell("ls", "--config", "conf.toml", "-o", "json")
    assert result.code == 10
    assert says in result.error["message"]


def test_flag_wins_over_environment_over_file(shell: Shell) -> None:
    shell.write("conf.toml", 'namespace = "file"\n')
    config = {"SOMACTL_CONFIG": "conf.toml"}

    def where(*words: str, **env: str) -> str:
        return str(shell.ok("init", "-o", "json", *words, env=config | env).json["namespace"])

    assert where() == "file"
    assert where(SOMACTL_NAMESPACE="environment") == "environment"
    assert where("-n", "flag", SOMACTL_NAMESPACE="environment") == "flag"
    assert shell("init", env={"SOMACTL_NAMESPACE": "not a name"}).code == 10


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b'{"key": "a"}',
        b'{"key": "a", "value": [[1]], "extra": 1}',
        b'{"key": 1, "value": [[1]]}',
        b'{"key": "first", "value": [[1.0]]}',
        b'{"key": "a", "value": "hello"}',
        b'{"key": "a\\u0000", "value": [[1.0]]}',
        b"\xff\xfe",
    ],
)
def test_one_bad_ndjson_line_refuses_all(shell: Shell, line: bytes) -> None:
    stdin = b'{"key": "first", "value": [[1.0]]}\n' + line + b"\n"
    result = shell("commit", "-o", "json", stdin=stdin)
    assert result.code == 11, result.err
    assert shell.is_empty()


def test_an_empty_stdin_is_refused(shell: Shell) -> None:
    assert shell("commit", stdin=b"").code == 11
    assert shell("commit", stdin=b"\n").code == 11


def test_an_audit_goes_on_and_counts_apart_what_it_could_not_check(shell: Shell) -> None:
    shell.save("good.npy", density(4))
    shell.save("bad.npy", with_smallest_eigenvalue(density(4), -0.1))
    shell.write("text", "hello")
    files = [w for name in ("text", "bad.npy", "missing", "good.npy") for w in ("--file", name)]
    result = shell("verify-psd", *files, "-o", "json")
    report = result.json
    assert result.code == 3
    assert (report["checked"], report["valid"], report["violated"], report["rejected"]) == (2, 1, 1, 2)
    assert report["complete"] is False
    assert report["codes"] == [3, 11]
    stopped = shell("verify-psd", "--fail-fast", *files, "-o", "json").json
    assert (stopped["checked"], stopped["rejected"]) == (0, 1)


def test_a_corrupt_stored_value_is_a_finding_and_never_served(shell: Shell) -> None:
    shell.commit("good", density(4))
    shell.commit("bad", density(40))
    _spoil(shell, largest_blob)
    audit = shell("verify-psd", "--all", "-o", "json")
    assert (audit.code, audit.json["corrupt"], audit.json["valid"]) == (3, 1, 1)
    served = shell("get", "bad")
    assert (served.code, served.out) == (3, b"")
    assert "bad" in served.err
    shell.ok("get", "good", "--to", "good")


def largest_blob(db: sqlite3.Connection) -> None:
    """Flip one bit in the middle of the largest blob of the database, wherever the schema keeps it."""
    for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        for column in [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[2] == "BLOB"]:
            found = db.execute(
                f"SELECT rowid, {column} FROM {table} ORDER BY length({column}) DESC"
            ).fetchone()
            if found and isinstance(found[1], bytes) and len(found[1]) > 4096:
                blob = bytearray(found[1])
                blob[len(blob) // 2] ^= 1
                db.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (bytes(blob), found[0]))
                return
    raise AssertionError("no large blob found")


def _spoil(shell: Shell, how: Callable[[sqlite3.Connection], None]) -> None:
    with sqlite3.connect(shell.folder / "somactl.db") as db:
        how(db)
    db.close()


def test_a_locked_database_is_unavailable_and_unchanged(shell: Shell) -> None:
    shell.commit("a", density(4))
    db = sqlite3.connect(shell.folder / "somactl.db", isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    result = shell("commit", "b=value.npy", "-o", "json")
    assert (result.code, result.error["error"], result.error["retryable"]) == (13, "StoreBusy", True)
    shell.ok("get", "a", "--to", "still-readable")
    db.execute("ROLLBACK")
    db.close()
    assert shell.ok("ls", "-o", "json").json["total"] == 1


def test_a_full_disk_writes_nothing(shell: Shell) -> None:
    shell.commit("a", density(4))
    size = (shell.folder / "somactl.db").stat().st_size
    shell.save("big.npy", density(500))
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size + 65536, size + 65536))
    result = shell("commit", "big=big.npy", "-o", "json", preexec_fn=limit)
    assert result.code == 13, result.err
    assert [k["key"] for k in shell.ok("ls", "-o", "json").json["keys"]] == ["a"]
    shell.ok("verify-psd", "--all")


def test_a_file_that_is_no_database_is_left_alone(shell: Shell) -> None:
    shell.write("somactl.db", b"this is not a database, and long enough to be one" * 100)
    before = (shell.folder / "somactl.db").read_bytes()
    shell.save("good.npy", density(4))
    assert shell("commit", "a=good.npy").code == 13
    assert (shell.folder / "somactl.db").read_bytes() == before


def test_a_closed_pipe_ends_quietly(shell: Shell) -> None:
    lines = b"".join(b'{"key": "key-%05d", "value": [[1.0]]}\n' % i for i in range(3000))
    shell.ok("commit", stdin=lines)
    done = shell.line("somactl ls -o ndjson | head -n 1; echo code ${PIPESTATUS[0]}")
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "code 0"


def test_an_unwritable_stdout_does_not_hide_a_finding(shell: Shell) -> None:
    shell.save("bad.npy", with_smallest_eigenvalue(density(4), -0.1))
    done = shell.line("somactl verify-psd --file bad.npy | true; echo code ${PIPESTATUS[0]}")
    assert "code 3" in done.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_in_the_middle_of_a_commit_it_says_what_became_of_it(
    shell: Shell, number: signal.Signals, code: int
) -> None:
    """A lock holds the commit in its write; the signal comes then; the outcome is final either way."""
    shell.commit("a", density(4))
    db = sqlite3.connect(shell.folder / "somactl.db", isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    process = shell.begin("commit", "b=value.npy", "--commit-id", "late", "-o", "json")
    assert process.stderr is not None
    assert b"late" in process.stderr.readline()  # announced: the write follows at once
    time.sleep(0.3)
    process.send_signal(number)
    time.sleep(0.3)
    db.execute("ROLLBACK")
    db.close()
    _, err = process.communicate(timeout=30)
    assert process.returncode in (code, 14), err
    error = json.loads(err.splitlines()[-1])
    assert error["facts"]["commit_id"] == "late"
    state = shell("status", "late", "--resolve", "-o", "json").json["commit"]["state"]
    if process.returncode == code:
        assert error["facts"]["state"] == state
    keys = {k["key"] for k in shell.ok("ls", "-o", "json").json["keys"]}
    assert keys == ({"a", "b"} if state == "committed" else {"a"})


def test_an_interrupted_audit_reports_what_it_found(shell: Shell) -> None:
    read, write = os.pipe()
    shell.save("bad.npy", with_smallest_eigenvalue(density(4), -0.1))
    process = shell.begin("verify-psd", "--file", "bad.npy", "--file", "-", "-o", "ndjson", stdin=read)
    os.close(read)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["outcome"] == "violated"
    time.sleep(0.3)  # now it reads the pipe, which is never closed
    process.send_signal(signal.SIGTERM)
    report = json.loads(process.communicate(timeout=30)[0])
    os.close(write)
    assert process.returncode == 143
    assert (report["violated"], report["complete"], report["codes"]) == (1, False, [3, 4, 143])


def test_interrupted_while_it_waits_for_input_nothing_is_written(shell: Shell) -> None:
    read, write = os.pipe()
    process = shell.begin("commit", stdin=read)
    os.write(write, b'{"key": "a", "value": [[1.0]]}\n')
    wait_until_read(read)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    os.close(read)
    os.close(write)
    assert process.returncode == 130
    assert err == b"error: stopped before anything was written\n"
    assert shell.is_empty()

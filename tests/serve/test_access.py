"""Who may open which door, by a file that changes while it is used. No token ever shows."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from somactl.errors import ConfigurationError
from somactl.serve.access import Access, Credentials, Denied, bearer, is_local, names_in
from somactl.serve.log import Log
from somactl.serve.tokens import LOOK_SECONDS, TokenFile

READER, PRUNER, HASHED = "reader-0123456789abcdef", "pruner-0123456789abcdef", "hashed-0123456789abcdef"
FILE = f"""
# who may
dashboard   read        {READER}
manager-1   prune       {PRUNER}   acme,globex
batch       read,prune  sha256:{hashlib.sha256(HASHED.encode()).hexdigest()}
machine     prune       cert:CN=batch.acme.internal
mesh        read        cert:SAN=spiffe://acme/reader
"""


@pytest.fixture
def lines() -> list[bytes]:
    return []


@pytest.fixture
def log(lines: list[bytes]) -> Any:
    log = Log(lines.append)
    yield log
    log.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "tokens", FILE)


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def with_token(token: str, **more: Any) -> Credentials:
    return Credentials(token=token, **more)


def kind(access: Access, *asked: Any) -> str:
    with pytest.raises(Denied) as refused:
        access.admit(*asked)
    return refused.value.kind


def test_roles_and_namespaces(path: Path, log: Log) -> None:
    access = Access.open(str(path), log)
    assert access.admit("read", "acme", with_token(READER)).name == "dashboard"
    assert access.admit("prune", "acme", with_token(PRUNER)).name == "manager-1"
    assert access.admit("read", "any", with_token(HASHED)).name == "batch"
    assert access.admit("prune", "any", with_token(HASHED)).name == "batch"
    assert kind(access, "prune", "acme", with_token(READER)) == "forbidden"
    assert kind(access, "read", "acme", with_token(PRUNER)) == "forbidden"
    assert kind(access, "prune", "default", with_token(PRUNER)) == "forbidden"
    for wrong in ("", "wrong", READER[:-1], READER + "0", READER.upper(), "x" * 5000, "\udcff" * 20):
        assert kind(access, "read", "acme", with_token(wrong)) == "unauthenticated"
    assert kind(access, "prune", "acme", Credentials()) == "unauthenticated"


def test_certificates(path: Path, log: Log) -> None:
    access = Access.open(str(path), log)
    proven = {
        "subject": ((("organizationName", "Acme"),), (("commonName", "batch.acme.internal"),)),
        "subjectAltName": (("URI", "spiffe://acme/other"), ("DNS", "batch")),
    }
    named = Credentials(certificate=names_in(proven))
    assert access.admit("prune", "acme", named).name == "machine"
    assert kind(access, "read", "acme", named) == "forbidden"
    mesh = Credentials(certificate=names_in({"subjectAltName": (("URI", "spiffe://acme/reader"),)}))
    assert access.admit("read", "acme", mesh).name == "mesh"
    assert kind(access, "prune", "acme", Credentials(certificate=("CN=other",))) == "unauthenticated"
    both = Credentials(token="wrong", certificate=("CN=batch.acme.internal",))
    assert kind(access, "prune", "acme", both) == "unauthenticated"  # a wrong token is not made good


def test_what_is_open_without_a_file(log: Log) -> None:
    access = Access.open(None, log)
    here, elsewhere = Credentials(is_local=True), Credentials(peer="10.0.0.7")
    assert access.admit("read", "acme", here).name == "local"
    assert kind(access, "prune", "acme", here) == "closed"
    assert kind(access, "read", "acme", elsewhere) == "closed"
    assert kind(access, "prune", "acme", with_token(PRUNER)) == "closed"


def test_here_a_file_opens_no_less(path: Path, log: Log) -> None:
    access = Access.open(str(path), log)
    assert access.admit("read", "acme", Credentials(is_local=True)).name == "local"
    assert kind(access, "prune", "acme", Credentials(is_local=True)) == "unauthenticated"
    assert kind(access, "read", "acme", with_token("wrong", is_local=True)) == "unauthenticated"
    assert kind(access, "read", "acme", with_token(PRUNER, is_local=True)) == "forbidden"
    assert kind(access, "read", "acme", with_token("", is_local=True)) == "unauthenticated"  # `Basic ...`


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("one", "line 2 has 1 columns"),
        (f"a read {READER} ns more", "line 2 has 5 columns"),
        (f"{READER} write dashboard", "line 2 has no roles"),
        (f"local read {READER}", "line 2 begins with no name"),
        (f"a/b read {READER}", "line 2 begins with no name"),
        ("a read short", "line 2 has no secret"),
        ("a read sha256:abcd", "line 2 has no secret"),
        ("a read cert:O=Acme", "line 2 has no secret"),
        (f"a read {READER}!", "line 2 has no secret"),
        (f"a read {READER} a/b", "line 2 has no namespaces"),
        (f"a read, {READER}", "line 2 has no roles"),
        (f"a read {PRUNER}", "line 2 has the secret of line 1"),
        (f"a read {READER}é", "line 2 is not ASCII"),
    ],
)
def test_a_bad_line_is_named_and_not_shown(tmp_path: Path, log: Log, line: str, said: str) -> None:
    path = write(tmp_path / "tokens", f"manager-1 prune {PRUNER}\n{line}\n")
    with pytest.raises(ConfigurationError) as refused:
        TokenFile(str(path), log)
    assert said in refused.value.message
    shown = f"{refused.value.message} {refused.value.hint} {refused.value.facts}"
    assert READER not in shown
    assert PRUNER not in shown


def test_a_file_that_is_none_or_open_to_all(tmp_path: Path, log: Log) -> None:
    for mode in (0o604, 0o602, 0o644, 0o777):
        with pytest.raises(ConfigurationError, match="all users"):
            TokenFile(str(write(tmp_path / "tokens", FILE, mode)), log)
    TokenFile(str(write(tmp_path / "tokens", FILE, 0o440)), log)
    with pytest.raises(ConfigurationError, match="names no caller"):
        TokenFile(str(write(tmp_path / "none", "# no line\n")), log)
    with pytest.raises(ConfigurationError, match=r"cannot be read: .*missing: no such file"):
        TokenFile(str(tmp_path / "missing"), log)
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(ConfigurationError, match="no regular file"):
        TokenFile(str(tmp_path / "fifo"), log)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def later(self) -> None:
        self.now += LOOK_SECONDS


def test_a_change_is_taken_and_a_bad_one_is_not(path: Path, log: Log, lines: list[bytes]) -> None:
    clock = Clock()
    tokens = TokenFile(str(path), log, clock=clock)
    assert tokens.table.by_token(READER) is not None
    write(path, f"other read {HASHED}\n")
    assert tokens.table.by_token(READER) is not None  # it is looked at once a second
    clock.later()
    assert tokens.table.by_token(READER) is None
    assert tokens.table.by_token(HASHED) is not None

    for spoil in (
        lambda: write(path, f"other read {HASHED}\nbad {PRUNER}\n"),
        lambda: write(path, f"other read {PRUNER}\n", 0o644),
        lambda: write(path, ""),
        lambda: path.unlink(),
    ):
        spoil()
        clock.later()
        assert tokens.table.by_token(HASHED) is not None
        assert tokens.problem is not None
    clock.later()
    assert tokens.table.by_token(HASHED) is not None
    write(path, f"new read {PRUNER}\n")
    clock.later()
    assert tokens.table.by_token(PRUNER) is not None
    assert tokens.problem is None

    log.close()
    told = b"".join(lines)
    assert told.count(b"the callers of before stay") == 4  # once for each, not once a second
    assert told.count(b"read again") == 2
    for token in (READER, PRUNER, HASHED):
        assert token.encode() not in told


def test_a_file_that_was_away_is_used_again(
    path: Path, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("somactl.serve.tokens._RACY_SECONDS", -1.0)  # it was written long ago
    folder, clock = tmp_path / "volume", Clock()
    folder.mkdir()
    tokens = TokenFile(str(path.rename(folder / "tokens")), log, clock=clock)
    for away, problem in ((True, True), (False, False)):
        (folder if away else tmp_path / "away").rename(tmp_path / "away" if away else folder)
        clock.later()
        assert tokens.table.by_token(READER) is not None
        assert (tokens.problem is not None) == problem


@pytest.mark.parametrize("seconds_ago", [0.0, 3600.0])
def test_what_was_changed_lately_is_read_again_though_it_looks_the_same(
    path: Path, log: Log, monkeypatch: pytest.MonkeyPatch, seconds_ago: float
) -> None:
    clock, same = Clock(), os.stat(path)
    looks = SimpleNamespace(
        **{name: getattr(same, name) for name in ("st_mode", "st_dev", "st_ino", "st_size")},
        st_ctime=time.time() - seconds_ago,
        st_ctime_ns=1,
    )
    monkeypatch.setattr("somactl.serve.tokens.os.fstat", lambda descriptor: looks)
    monkeypatch.setattr("somactl.serve.tokens.os.stat", lambda path: looks)
    tokens = TokenFile(str(path), log, clock=clock)
    with open(path, "w") as file:
        file.write(FILE.replace("dashboard", "elsewhere"))
    clock.later()
    caller = tokens.table.by_token(READER)
    assert caller is not None
    assert caller.name == ("dashboard" if seconds_ago else "elsewhere")


def test_a_change_within_the_same_moment_is_seen(path: Path, log: Log) -> None:
    """Of the same size and, after `utime`, with the same time of change of its content."""
    clock = Clock()
    tokens = TokenFile(str(path), log, clock=clock)
    before = path.stat()
    for name in ("a1", "a2", "a3"):
        write(path, FILE.replace("dashboard", "dashboard"[: -len(name)] + name))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        clock.later()
        caller = tokens.table.by_token(READER)
        assert caller is not None
        assert caller.name.endswith(name)


def test_sighup_reads_it_at_once(path: Path, log: Log) -> None:
    tokens = TokenFile(str(path), log, clock=Clock())
    access = Access(tokens, log)
    assert access.admit("read", "acme", with_token(READER)).name == "dashboard"
    write(path, f"other read {HASHED}\n")
    assert access.reload()
    assert kind(access, "read", "acme", with_token(READER)) == "unauthenticated"
    write(path, "bad\n")
    assert not access.reload()
    assert access.problem is not None
    assert access.admit("read", "acme", with_token(HASHED)).name == "other"


def test_refusals_are_logged_without_tokens_and_not_without_end(
    path: Path, log: Log, lines: list[bytes]
) -> None:
    access = Access.open(str(path), log)
    for _ in range(500):
        assert kind(access, "prune", "acme", with_token(READER, peer="10.0.0.7")) == "forbidden"
        assert kind(access, "read", "acme", with_token(READER + "x")) == "unauthenticated"
    log.close()
    told = b"".join(lines)
    assert b"dashboard has not the role prune" in told
    assert b"10.0.0.7" in told
    assert 2 <= len(lines) < 250  # 20 of each kind in a second
    assert READER.encode() not in told


def test_bearer() -> None:
    assert bearer([]) is None
    assert bearer(["Bearer abc"]) == "abc"
    assert bearer(["bearer  abc "]) == "abc"
    assert bearer(["Basic abc"]) == ""
    assert bearer(["Bearer"]) == ""
    assert bearer(["Bearer abc", "Bearer abc"]) == ""


def test_what_surely_comes_from_here() -> None:
    assert is_local("127.0.0.1", "127.0.0.1:8080")
    assert is_local("::1", "[::1]:8080")
    assert is_local("::ffff:127.0.0.1", "localhost", ["accept"])
    assert is_local("127.0.0.1", None)
    assert not is_local("10.0.0.7", "localhost")
    assert not is_local("127.0.0.1", "rebound.example:8080")
    assert not is_local("127.0.0.1", "localhost.rebound.example")
    assert not is_local("127.0.0.1", "localhost", ["X-Forwarded-For"])
    assert not is_local("127.0.0.1", "localhost", ["Forwarded"])
    assert not is_local(None, "localhost")
    assert not is_local("", "localhost")

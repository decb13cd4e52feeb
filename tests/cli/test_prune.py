"""`somactl prune` and the undo of it as an operator or a pipeline runs them."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import jsonschema
import pytest

from servers.redis import RedisServer
from somactl.package_data import data_file
from tests.cli.conftest import SOMACTL, Shell, density, environment

KEYS = ("a", "b", "c", "d")


@pytest.fixture
def filled(shell: Shell) -> Shell:
    file = shell.save("rho.npy", density(3))
    shell.ok("commit", *(f"{key}={file}" for key in KEYS))
    return shell


def keys(shell: Shell) -> list[str]:
    return [key["key"] for key in shell.ok("ls", "-o", "json").json["keys"]]


def report(shell: Shell, *words: str, code: int = 0, stdin: bytes = b"") -> Any:
    result = shell("prune", "--output", "json", *words, stdin=stdin)
    assert result.code == code, (result.code, result.err, result.text)
    return result.json


def message(**fields: Any) -> bytes:
    now = time.time()
    values = {
        "order_id": "order-7",
        "issued_at": now - 1,
        "expires_at": now + 600,
        "issuer": "manager-1",
        "sequence": 7,
        "namespace": "default",
        "keys": ["c", "a"],
    }
    return json.dumps(values | fields).encode()


def test_an_order_is_carried_out_and_undone_by_the_command_it_ends_with(filled: Shell) -> None:
    order = filled.write("order.txt", "# ranked today\nc\n\nzz\na\nb\n")
    done = filled.ok("prune", "--order-file", order, "--limit", "2")
    first, last = done.err.splitlines()[0], done.text.splitlines()[-1]
    order_id = first.removeprefix("order ")
    assert last == f"undo: somactl restore --commit {order_id}"
    assert "line 4       unknown" in done.text
    assert keys(filled) == ["b", "d"]
    filled.ok(*last.removeprefix("undo: somactl ").split())
    assert keys(filled) == list(KEYS)


def test_the_report_keeps_to_its_schema(filled: Shell) -> None:
    schema = json.loads(data_file("schemas", "report.prune.json").read_text())
    order = filled.write("order.txt", "c\nzz\na\n")
    found = report(filled, "--order-file", order, "--batch", "2")
    jsonschema.validate(found, schema)
    assert found["counts"] == {"deleted": 2, "unknown": 1}
    assert found["undo"].endswith(found["order_id"])
    jsonschema.validate(report(filled, "--keep", "1", code=4), schema)
    restored = filled.ok("restore", "--commit", found["order_id"], "-o", "json").json
    jsonschema.validate(restored, json.loads(data_file("schemas", "report.restore.json").read_text()))
    assert restored["restored_keys"] == 2


@pytest.mark.parametrize(
    "content",
    [b"c\na\n", b'["c", "a"]', b'"c"\n{"key": "a", "version": 1}\n', None],
    ids=["text", "list", "ndjson", "message"],
)
def test_every_form_comes_by_file_or_by_pipe(filled: Shell, content: bytes | None) -> None:
    content = content or message()  # made now: it expires
    dry = report(filled, "--order-file", filled.write("order", content), "--dry-run")
    found = report(filled, "--order-file", "-", stdin=content)
    assert (dry["digest"], dry["form"]) == (found["digest"], found["form"])
    assert keys(filled) == ["b", "d"]


def test_a_dry_run_says_what_would_go_and_how_to_do_it(filled: Shell) -> None:
    order = filled.write("order.txt", "c\na\nb\n")
    dry = report(filled, "--order-file", order, "--keep", "2", "--dry-run")
    assert [(item["place"], item["key"]) for item in dry["would_delete"]] == [
        ("line 1", "c"),
        ("line 2", "a"),
    ]
    assert (dry["keys_left"], dry["undo"]) == (2, None)
    assert dry["next"] == "somactl prune --order-file order.txt --keep 2"
    assert keys(filled) == list(KEYS)
    assert len(filled.ok("log", "-o", "json").json["commits"]) == 1
    filled.ok(*dry["next"].split()[1:])
    assert keys(filled) == ["b", "d"]


def test_ndjson_prints_every_item_that_was_looked_at(filled: Shell) -> None:
    order = filled.write("order.txt", "c\nzz\na\nb\n")
    lines = filled.ok("prune", "--order-file", order, "--limit", "2", "-o", "ndjson").lines
    assert [(line["key"], line["outcome"]) for line in lines[:-1]] == [
        ("c", "deleted"),
        ("zz", "unknown"),
        ("a", "deleted"),
    ]
    assert lines[-1]["command"] == "prune"


def test_a_message_is_carried_out_once_and_replayed_with_its_first_report(filled: Shell) -> None:
    first = report(filled, "--order-file", filled.write("m.json", message()))
    again = report(filled, "--order-file", "m.json")
    own = {name: again[name] for name in ("started_at", "ended_at")}
    assert again == first | {"replayed": True} | own
    assert filled.ok("status", "order-7").code == 0


@pytest.mark.parametrize(
    ("fields", "ruling"),
    [
        ({"namespace": "other"}, "wrong-namespace"),
        ({"issued_at": 1, "expires_at": 2}, "expired"),
        ({"issued_at": 4e9, "expires_at": 5e9}, "issued-in-future"),
    ],
)
def test_a_message_that_may_not_be_carried_out_says_why(
    filled: Shell, fields: dict[str, Any], ruling: str
) -> None:
    result = filled("prune", "--order-file", "-", "-o", "json", stdin=message(**fields))
    assert (result.code, result.error["error"]) == (11, "OrderRefused")
    assert result.error["facts"]["ruling"] == ruling
    assert result.error["hint"]
    assert result.error["runbook"] == "RUNBOOKS/prune.md"
    assert keys(filled) == list(KEYS)


def test_a_message_out_of_sequence_or_under_a_used_id_is_refused(filled: Shell) -> None:
    report(filled, "--order-file", "-", stdin=message())
    late = filled("prune", "--order-file", "-", "-o", "json", stdin=message(order_id="late", sequence=6))
    assert (late.code, late.error["facts"]["ruling"]) == (11, "out-of-sequence")
    other = filled("prune", "--order-file", "-", "-o", "json", stdin=message(keys=["b"]))
    assert (other.code, other.error["error"]) == (11, "CommitIdReused")
    assert keys(filled) == ["b", "d"]


BAD_ORDERS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "names no key"),
    "only-comments": (b"# comment\n\n", "names no key"),
    "duplicate": (b"a\nb\na\n", "line 3"),
    "rubbish": (bytes(range(128, 256)) * 8, "UTF-8"),
    "utf-16": ("a\nb\n".encode("utf-16"), "UTF-16"),
    "json-that-is-cut": (b'["a", "b"', "JSON"),
    "no-message": (b'{"keys": ["a"]}', "lacks"),
    "nested": (b'[["a"]]', "list or an object"),
    "version-of-zero": (b'[{"key": "a", "version": 0}]', "version"),
    "control-character": (b"a\x07\n", "line 1"),
}


@pytest.mark.parametrize("name", BAD_ORDERS)
def test_a_bad_order_is_refused_whole(filled: Shell, name: str) -> None:
    content, says = BAD_ORDERS[name]
    for words in (["--order-file", filled.write("order", content)], ["--order-file", "-"]):
        result = filled("prune", *words, "-o", "json", stdin=content)
        assert (result.code, result.error["code"]) == (11, 11), result.err
        assert says in result.error["message"]
    assert keys(filled) == list(KEYS)


@pytest.mark.parametrize("path", ["missing.txt", "."])
def test_a_file_that_cannot_be_read_is_refused(filled: Shell, path: str) -> None:
    result = filled("prune", "--order-file", path, "-o", "json")
    assert (result.code, result.error["error"]) == (11, "InvalidFile")


def test_a_huge_file_is_refused_in_time(filled: Shell) -> None:
    lines = b"".join(b"key-%07d-%s\n" % (i, b"x" * 80) for i in range(1_000_001))
    assert len(lines) > 90_000_000
    result = filled("prune", "--order-file", filled.write("huge.txt", lines), "-o", "json")
    assert (result.code, result.error["error"]) == (11, "LimitExceeded")


@pytest.mark.parametrize(
    "words",
    [
        ["--limit", "1", "--keep", "1"],
        ["--keep", "1", "--max-bytes", "1"],
        ["--limit", "-1"],
        ["--keep", "-1"],
        ["--max-bytes", "-1"],
        ["--max-bytes", "10 parsecs"],
        ["--grace", "banana"],
        ["--grace", "-1h"],
        ["--grace", "1e9"],
        ["--grace", "99999999d"],
        ["--batch", "0"],
        ["--batch", "10001"],
        ["--missing", "perhaps"],
        ["--fallback", "newest"],
        ["--fallback", "oldest", "--keep", "1"],
        ["--order-id", "with/slash", "--limit", "1"],
        ["--grace", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_said_and_deletes_nothing(filled: Shell, words: list[str]) -> None:
    result = filled("prune", "--order-file", filled.write("order.txt", "a\nb\n"), *words, "-o", "json")
    assert result.code == (11 if "--order-id" in words else 2), result.err
    assert result.error["message"]
    assert keys(filled) == list(KEYS)


def test_without_an_order_there_is_only_a_limit_to_compare_with(filled: Shell) -> None:
    assert filled("prune").code == 2
    assert filled("prune", "--limit", "3").code == 2
    over = report(filled, "--keep", "3", code=4)
    assert (over["short_by"], over["degraded"], over["order_id"]) == (1, True, None)
    assert report(filled, "--keep", "4")["degraded"] is False
    assert report(filled, "--max-bytes", "1MiB")["short_by"] == 0
    table = filled("prune", "--keep", "1")
    assert "degraded: 3 keys over the limit of 1 key, since" in table.text
    assert keys(filled) == list(KEYS)


def test_a_namespace_that_does_not_exist_is_not_made(filled: Shell) -> None:
    result = filled("prune", "--namespace", "absent", "--order-file", "-", "-o", "json", stdin=b"a\n")
    assert (result.code, result.error["error"]) == (15, "NamespaceNotFound")
    assert len(filled.ok("namespaces", "-o", "json").json["namespaces"]) == 1


def test_fail_names_what_forbids_the_order(filled: Shell) -> None:
    result = filled("prune", "--order-file", "-", "--missing", "fail", stdin=b"a\nzz\n")
    assert result.code == 15
    assert "line 2 is unknown" in result.err
    ranked = b'["a", {"key": "b", "version": 9}]'
    result = filled("prune", "--order-file", "-", "--changed", "fail", "-o", "json", stdin=ranked)
    assert (result.code, list(result.error["facts"]["conflicts"])) == (12, ["b"])
    assert keys(filled) == list(KEYS)


def test_for_good_wants_a_yes(filled: Shell) -> None:
    order = filled.write("order.txt", "a\nb\n")
    done = filled.ok("prune", "--order-file", order, "--grace", "0", "--yes")
    assert "an undo is impossible" in done.text
    assert "undo:" not in done.text
    assert filled.ok("ls", "--deleted", "-o", "json").json["keys"] == []
    order_id = done.err.split()[1]
    assert filled("restore", "--commit", order_id).code == 15


def test_a_terminal_is_asked(filled: Shell) -> None:
    order = filled.write("order.txt", "a\n")
    assert _answered(filled, b"n\n", "prune", "--order-file", order) == 2
    assert keys(filled) == list(KEYS)
    assert _answered(filled, b"y\n", "prune", "--order-file", order) == 0
    assert keys(filled) == ["b", "c", "d"]


def _answered(shell: Shell, answer: bytes, *words: str) -> int:
    master, slave = os.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [SOMACTL, *words],
        cwd=shell.folder,
        env=environment(),
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=take_terminal,
    )
    os.write(master, answer)
    process.communicate(timeout=60)
    os.close(slave)
    os.close(master)
    return process.returncode


def interrupted(shell: Shell, *words: str) -> Any:
    """The report of a prune of 3000 keys, a batch each, under the id `night`, that a signal ended."""
    lines = "".join(f'{{"key": "k{i:04}", "value": [[1.0]]}}\n' for i in range(3000)).encode()
    shell.ok("commit", stdin=lines)
    shell.write("order.txt", "".join(f"k{i:04}\n" for i in range(3000)))
    with (shell.folder / "order.txt").open("rb") as order:
        process = subprocess.Popen(
            [SOMACTL, "prune", *words, "--batch", "1", "--order-id", "night", "-o", "json"],
            cwd=shell.folder,
            env=environment(),
            stdin=order,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    while shell("status", "night/0005").code != 0:
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    return json.loads(out)


def test_a_signal_leaves_a_report_and_the_command_that_goes_on(shell: Shell) -> None:
    stopped = interrupted(shell, "--order-file", "order.txt")
    assert (stopped["complete"], stopped["stopped"]) == (False, "interrupted")
    assert stopped["deleted_keys"] == 3000 - len(keys(shell))
    assert stopped["next"] == "somactl prune --order-file order.txt --order-id night --batch 1"
    assert stopped["undo"] == "somactl restore --commit night"


def test_the_status_of_an_order_in_batches_says_how_far_it_is(shell: Shell) -> None:
    stopped = interrupted(shell, "--order-file", "-")
    assert stopped["next"] == "somactl prune --order-file - --order-id night --batch 1 < order.txt"
    found = shell("status", "night", "-o", "json")
    assert (found.code, found.json["final"]) == (4, False)
    assert found.json["undo"] == "somactl restore --commit night"
    order = found.json["order"]
    assert order["pending"] is None or order["pending_state"] in ("committed", "aborted")
    assert (order["state"], order["deleted_keys"]) == ("running", stopped["deleted_keys"])
    assert order["batches"][0]["commit_id"] == "night/0001"
    schema = json.loads(data_file("schemas", "report.status.json").read_text())
    jsonschema.validate(found.json, schema)
    assert "order night: running; of 3000 items" in shell("status", "night").text
    refused = shell("status", "night", "--resolve", "-o", "json")
    assert (refused.code, refused.error["error"]) == (2, "UsageError")
    shell.ok("restore", "--commit", "night")
    assert len(keys(shell)) == 3000


def test_the_status_of_an_order_that_is_done_is_final(filled: Shell) -> None:
    report(filled, "--order-file", "-", "--order-id", "o", "--batch", "2", stdin=b"c\na\nb\n")
    for words in ([], ["--resolve"]):
        found = filled.ok("status", "o", *words, "-o", "json").json
        assert (found["final"], found["next"], found["order"]["state"]) == (True, None, "done")
        assert found["order"]["counts"] == {"deleted": 3}
    filled.ok(*found["undo"].split()[1:])
    assert keys(filled) == list(KEYS)


def after(shell: Shell, statement: str) -> None:
    """Something done to the database that no command does."""
    with closing(sqlite3.connect(shell.folder / "somactl.db")) as connection:
        connection.executescript(statement)


BUSY = """CREATE TRIGGER busy AFTER INSERT ON note BEGIN
    UPDATE revision SET version = version + 1 WHERE key = 'a' AND superseded_version IS NULL;
END;"""
"""Whenever a run has noted what it is about to commit, `a` moves on."""


def test_a_run_that_fails_at_its_first_batch_says_how_the_order_goes_on(filled: Shell) -> None:
    after(filled, BUSY)
    failed = filled("prune", "--order-file", filled.write("order.txt", "a\nb\n"), "-o", "json")
    assert failed.code == 12, failed.err
    name, *words = failed.error["next"].split()
    assert " ".join([name, *words]).startswith("somactl prune --order-file order.txt --order-id ")
    after(filled, "DROP TRIGGER busy;")
    assert filled.ok(*words, "-o", "json").json["resumed"] is True
    assert keys(filled) == ["c", "d"]


def test_an_order_that_is_over_for_good_suggests_nothing(filled: Shell) -> None:
    after(filled, BUSY)
    order = filled.write("order.json", message())
    assert filled("prune", "--order-file", order).code == 12
    after(filled, "DROP TRIGGER busy;")
    report(filled, "--order-file", "-", stdin=message(order_id="order-8", sequence=8, keys=["d"]))
    for _ in range(2):
        ended = report(filled, "--order-file", order, code=4)
        assert (ended["final"], ended["next"]) == (True, None)
    assert keys(filled) == ["a", "b", "c"]


def test_the_fallback_goes_on_as_it_began(filled: Shell) -> None:
    dry = report(filled, "--keep", "2", "--fallback", "oldest", "--dry-run", code=0)
    assert dry["next"] == "somactl prune --keep 2 --fallback oldest"
    assert [item["place"] for item in dry["would_delete"]] == ["item 1", "item 2"]
    assert filled("prune", "--keep", "2", "--fallback", "oldest", "--order-id", "o").code == 2
    filled.ok(*dry["next"].split()[1:])
    assert keys(filled) == ["c", "d"]


def test_nothing_deleted_is_listed_under_its_own_header(filled: Shell) -> None:
    assert "RESTORABLE UNTIL" in filled.ok("ls", "--deleted").text


def test_one_key_was_back_already(filled: Shell) -> None:
    report(filled, "--order-file", "-", "--order-id", "o", stdin=b"a\n")
    filled.ok("restore", "--commit", "o")
    assert "1 key was back already" in filled.ok("restore", "--commit", "o").text


@pytest.fixture
def with_cache(shell: Shell, redis_server: RedisServer) -> Iterator[Shell]:
    raw = redis_server.client()
    raw.flushdb()
    yield shell
    raw.close()


def test_a_cache_is_freed_at_once(with_cache: Shell, redis_server: RedisServer) -> None:
    env = {"SOMACTL_CACHE": redis_server.url, "SFM_RHO_READ_TIMEOUT_MS": "5000"}
    file = with_cache.save("rho.npy", density(3))
    with_cache.ok("commit", f"a={file}", f"b={file}", env=env)
    with_cache.ok("get", "a", "--as", "json", env=env)
    done = with_cache.ok("prune", "--order-file", "-", "-o", "json", stdin=b"a\n", env=env).json
    assert done["freed_now"] == done["freed_after_grace"] == done["deleted_bytes"] > 0
    assert with_cache("get", "a", "--as", "json", env=env).code == 15


def test_a_partial_restore_leaves_the_rest_alone(filled: Shell) -> None:
    report(filled, "--order-file", "-", "--order-id", "o", stdin=b"a\nb\n")
    file = filled.save("other.npy", density(3, seed=2))
    filled.ok("commit", f"a={file}")
    refused = filled("restore", "--commit", "o", "-o", "json")
    assert (refused.code, list(refused.error["facts"]["conflicts"])) == (12, ["a"])
    partial = filled("restore", "--commit", "o", "--partial", "-o", "json")
    assert (partial.code, partial.json["restored_keys"]) == (4, 1)
    (left,) = partial.json["left"]
    assert (left["key"], left["why"], left["version"]) == ("a", "written since", 3)
    assert filled("restore", "a", "--version", "1", "--partial").code == 2


def test_ls_shows_what_can_come_back_and_until_when(filled: Shell) -> None:
    done = report(filled, "--order-file", "-", "--grace", "90m", stdin=b"a\n")
    (hidden,) = filled.ok("ls", "--deleted", "-o", "json").json["keys"]
    assert hidden["recoverable_until"] == done["recoverable_until"]
    assert hidden["recoverable_until"] == pytest.approx(time.time() + 5400, abs=60)

"""verify-psd of whole namespaces, as an operator and a nightly job run it."""

from __future__ import annotations

import asyncio
import shlex
import signal
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servers.postgres import PostgresServer
from servers.redis import RedisServer
from somactl import serialize_matrix
from somactl.config import Settings
from somactl.report.evidence import read_evidence
from somactl.runtime import open_store
from somactl.testing.values import envelope, proof, write
from support.forkserver import BEFORE
from support.sqlite_backend import SqliteBackend
from tests.cli.conftest import Result, Shell

KEYS = [f"k{number:03}" for number in range(40)]


def good(key: str, seed: int = 0) -> bytes:
    return envelope(key, seed, kind="rho", n=4)


def bad(key: str) -> bytes:
    """A matrix that is not positive semi-definite, as it could only be written past somactl."""
    return serialize_matrix(np.diag([1.25, -0.25]), key=key, namespace="default", kind="rho", timestamp=0.0)


def plant(store: str, values: Mapping[str, bytes | None]) -> None:
    """Write envelopes as they are, whatever they hold, with a verdict that is not true."""

    async def planted() -> None:
        async with open_store(Settings(store=store)) as opened:
            await opened.init()
            verdicts = proof(*(data for data in values.values() if data is not None))
            await write(opened, values, verdicts=verdicts)

    asyncio.run(planted())


class Audits:
    """A shell, and the store of its own that it audits."""

    def __init__(self, shell: Shell, store: str) -> None:
        self.shell, self.store = shell, store
        self.env = {"SOMACTL_STORE": store, "SOMACTL_RETRY_SECONDS": "0.2"}

    def __call__(self, *words: str, **env: str) -> Result:
        return self.shell("verify-psd", *words, env=self.env | env)

    def report(self, *words: str, code: int = 0, **env: str) -> Any:
        result = self(*words, "-o", "json", **env)
        assert result.code == code, (result.code, result.text, result.err)
        return result.json

    def plant(self, **values: bytes | None) -> None:
        plant(self.store, values)

    def rot(self, key: str) -> None:
        backend = SqliteBackend(self.shell.folder / "a.db")
        (version,) = {version for name, version in asyncio.run(backend.stored("default")) if name == key}
        data = asyncio.run(backend.stored_bytes("default", key, version))
        damaged = data[:-1] + bytes([data[-1] ^ 1])
        asyncio.run(backend.overwrite("default", key, version, damaged))


@pytest.fixture
def audits(shell: Shell) -> Audits:
    audits = Audits(shell, f"sqlite:///{shell.folder}/a.db")
    audits.plant(**{key: good(key) for key in KEYS})
    return audits


def test_every_night(audits: Audits) -> None:
    first = audits.report("--all")
    assert (first["valid"], first["coverage"]["kept_in"]) == (40, "store")
    second = audits("--all", "--incremental")
    assert (second.code, second.text.splitlines()[0]) == (
        0,
        "40 unchanged (no verdicts, method certify)",
    ), second.text
    audits.plant(k007=good("k007", 1), new=good("new"))
    third = audits.report("--all", "--incremental")
    assert (third["checked"], third["coverage"]["unchanged"]) == (2, 39)
    strict = audits.report("--all", "--incremental", "--psd-tolerance", "1e-12")
    assert (strict["checked"], strict["tolerances"]["psd"]) == (41, 1e-12)


def test_what_rots_is_found_when_its_turn_comes_and_every_night_from_then_on(audits: Audits) -> None:
    audits.report("--all")
    audits.rot("k030")
    assert audits.report("--all", "--incremental")["checked"] == 0
    codes = [audits("--all", "--incremental", "--recheck", "25%").code for _ in range(4)]
    assert codes in ([3] * 4, [0, 3, 3, 3], [0, 0, 3, 3], [0, 0, 0, 3])
    found = audits.report("--only-known-bad", code=3)
    assert [each["source"] for each in found["results"]] == ["k030"]
    audits.plant(k030=good("k030"))
    assert audits.report("--only-known-bad")["checked"] == 1
    assert audits.report("--only-known-bad", code=4)["checked"] == 0
    assert audits("--only-known-bad", "--allow-empty").code == 0


def test_a_key_that_was_bad_and_is_gone(audits: Audits) -> None:
    audits.plant(k005=bad("k005"))
    assert audits("--all").code == 3
    audits.plant(k005=None)
    report = audits.report("--only-known-bad")
    assert (report["coverage"]["gone"], report["coverage"]["known_bad"]) == (1, 0)


@pytest.mark.parametrize("output", ["table", "json", "ndjson"])
def test_a_deadline_leaves_a_line_that_goes_on(audits: Audits, output: str) -> None:
    audits.plant(k001=bad("k001"))
    result = audits("--all", "--rate", "20", "--max-duration", "0.5s", "-o", output, **{BEFORE: SLOW})
    assert result.code == 3, result.err
    line = _next(result, output)
    assert "--resume" in line
    done = audits.shell.line(line.replace("--max-duration 0.5s", "").replace("--rate 20", ""), env=audits.env)
    assert done.returncode == 3
    report = audits.report("--all", code=3)
    assert (report["checked"], report["violated"]) == (40, 1)


SLOW = """
from somactl.operations.audit import run, pages
def small(store, bounds, match, page_keys, whole=pages._listed):
    return whole(store, bounds, match, 4)
pages._listed = small
run.SAVE_SECONDS = 0.0
"""


def _next(result: Result, output: str) -> str:
    if output == "table":
        (line,) = [line for line in result.text.splitlines() if line.startswith("next: ")]
        return line.removeprefix("next: ")
    report = result.json if output == "json" else result.lines[-1]
    return str(report["next"])


def test_resume_adds_up(audits: Audits) -> None:
    audits.plant(k001=bad("k001"), k039=bad("k039"))
    whole = audits.report("--all", code=3)
    ended = audits.report("--all", "--rate", "20", "--max-duration", "0.5s", code=3, **{BEFORE: SLOW})
    assert 0 < ended["checked"] < 40
    assert (ended["complete"], ended["codes"]) == (False, [3, 4])
    resumed = audits.report("--all", "--resume", code=3)
    assert resumed["resumed"]
    for name in ("checked", "valid", "violated", "results", "worst_trace_error", "lowest_lambda_min"):
        assert resumed[name] == whole[name], name
    assert not audits.report("--all", "--resume", code=3)["resumed"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("output", ["table", "json", "ndjson"])
def test_a_signal_leaves_the_report(audits: Audits, number: int, code: int, output: str) -> None:
    words = ("verify-psd", "--all", "--rate", "8", "-o", output)
    process = audits.shell.begin(*words, env=audits.env | {BEFORE: SLOW})
    _until(lambda: _checkpoint(audits))
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    result = Result(process.returncode, out, err.decode())
    assert "--resume" in _next(result, output)
    if output != "table":
        report = result.json if output == "json" else result.lines[-1]
        assert report["complete"] is False
        assert report["codes"] == sorted([4, code])
        assert report["reached"] < KEYS[-1]
    resumed = audits.report("--all", "--resume")
    assert (resumed["resumed"], resumed["checked"]) == (True, 40)


def _until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _checkpoint(audits: Audits) -> bool:
    """Whether a run has kept that it came somewhere."""

    async def note() -> bytes:
        async with open_store(Settings(store=audits.store)) as store:
            found = await store.read_notes(["audit/run/all"])
        return b"".join(each.data or b"" for each in found.values())

    return b'"reached":"k' in asyncio.run(note())


LEASE = "from somactl.operations.audit import lease\nlease.LEASE_SECONDS = 1.0\nlease.RENEW_SECONDS = 0.2\n"


def test_two_at_once_and_one_that_was_killed(audits: Audits) -> None:
    words = ("verify-psd", "--all", "--rate", "8", "-o", "json")
    process = audits.shell.begin(*words, env=audits.env | {BEFORE: SLOW + LEASE})
    _until(lambda: _checkpoint(audits))
    refused = audits("--all")
    assert refused.code == 16
    assert f"process {process.pid}" in refused.err or "held by process" in refused.err
    assert "since 20" in refused.err
    assert "--on-overlap wait" in refused.err
    skipped = audits.report("--all", "--on-overlap", "skip", code=4)
    assert any("held by process" in warning for warning in skipped["warnings"])
    process.kill()
    process.communicate()
    resumed = audits("--all", "--on-overlap", "wait", "--resume", "-o", "json")
    assert (resumed.code, resumed.json["resumed"], resumed.json["checked"]) == (0, True, 40), resumed.err


def test_evidence_and_report_of_a_store_that_goes_away(shell: Shell, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server:
        audits = Audits(shell, server.url)
        audits.plant(**{key: good(key) for key in KEYS})
        for output in ("table", "json", "ndjson"):
            process = shell.begin(
                *("verify-psd", "--all", "--rate", "8", "-o", output, "--evidence", f"{output}.json"),
                env=audits.env | {BEFORE: SLOW},
            )
            _until(lambda: _checkpoint(audits))
            server.stop()
            out, err = process.communicate(timeout=60)
            assert process.returncode == 13, (out, err)
            result = Result(13, out, err.decode())
            if output == "table":
                assert "ended early" in result.text + result.err
            else:
                report = result.json if output == "json" else result.lines[-1]
                assert (report["codes"], report["complete"]) == ([4, 13], False)
                assert 0 < report["checked"] < 40
                assert report["reached"] < KEYS[-1]
            line = _next(result, output)
            assert "--resume" in line
            evidence = read_evidence((shell.folder / f"{output}.json").read_bytes(), output)
            assert evidence.document.report.code == 13
            server.start()
            plant(server.url, {key: good(key) for key in KEYS})
        server.stop()
        gone = audits("--all", "-o", "json")
        assert (gone.code, gone.out) == (13, b"")


@pytest.fixture
def reader(shell: Shell, postgres_server: PostgresServer) -> Iterator[tuple[Audits, Audits]]:
    """The same namespace on Postgres, for its owner and for one who may only read."""
    url = postgres_server.create_database()
    database, role = url.rpartition("/")[2], f"reader_{url.rpartition('/')[2]}"
    owner = Audits(shell, url)
    owner.plant(**{key: good(key) for key in KEYS})
    postgres_server.run(f"CREATE ROLE {role} LOGIN PASSWORD 'pw'")
    postgres_server.run(f"GRANT USAGE ON SCHEMA somactl TO {role}", database)
    postgres_server.run(f"GRANT SELECT ON ALL TABLES IN SCHEMA somactl TO {role}", database)
    host = f"{postgres_server.host}:{postgres_server.port}"
    yield owner, Audits(shell, f"postgresql://{role}:pw@{host}/{database}")
    postgres_server.drop_database(url)
    postgres_server.run(f"DROP ROLE {role}")


def test_a_role_that_may_only_read(reader: tuple[Audits, Audits]) -> None:
    owner, audits = reader
    _read_only_audits(audits, patience="30")
    assert owner.report("--all")["coverage"]["kept_in"] == "store"
    assert audits.report("--all", "--incremental")["coverage"]["unchanged"] == 40


def test_a_user_of_redis_who_may_only_read(shell: Shell, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server:
        Audits(shell, server.url).plant(**{key: good(key) for key in KEYS})
        with server.client() as raw:
            raw.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all", "-@write")
        _read_only_audits(Audits(shell, server.url.replace("://", "://reader:pw@")), patience="30")


def _read_only_audits(audits: Audits, patience: str) -> None:
    began = time.monotonic()
    report = audits.report("--all", SOMACTL_RETRY_SECONDS=patience)
    assert time.monotonic() - began < float(patience) / 2
    assert (report["valid"], report["coverage"]["kept_in"]) == (40, "")
    assert report["coverage"]["not_kept"]
    assert "the ledger is not kept: " in audits("--all").text
    kept = ("--all", "--ledger", "ledger.json")
    assert audits.report(*kept)["coverage"]["kept_in"] == "ledger.json"
    again = audits.report(*kept, "--incremental")
    assert (again["checked"], again["coverage"]["unchanged"]) == (0, 40)


def test_an_audit_makes_no_store(shell: Shell) -> None:
    for words in (
        ["--all"],
        ["--all", "--incremental"],
        ["--only-known-bad"],
        ["--all", "--ledger", "l.json"],
    ):
        assert shell("verify-psd", *words).code == 15
    assert [path.name for path in shell.folder.iterdir()] == []


def test_a_ledger_in_a_file(audits: Audits) -> None:
    audits.plant(k004=bad("k004"))
    kept = ("--all", "--ledger", "l.json")
    assert audits.report(*kept, code=3)["coverage"]["known_bad"] == 1
    assert audits.report(*kept, "--incremental", code=3)["checked"] == 1
    assert audits.report("--only-known-bad", "--ledger", "l.json", code=3)["checked"] == 1
    assert audits.report("--all", "--incremental", code=3)["checked"] == 40  # the store's own is another
    audits.shell.write("other.json", "{}")
    assert audits("--all", "--ledger", "other.json").code == 11
    assert audits("--all", "--ledger", "no/such/folder").code == 11


ACCEPT = """\
version: 1
accepted:
  - key: {key}
    digest: {digest}
    owner: ana@example.org
    reason: known since May
    expires: {expires}
  - key: k020
    digest: 00000000000000000000000000000000
    owner: ben@example.org
    reason: was mended long ago
    expires: 2099-01-31
"""


def test_accepted_findings(audits: Audits) -> None:
    audits.plant(k004=bad("k004"))
    (finding,) = audits.report("--all", code=3)["results"]
    known = {"key": "k004", "digest": finding["digest"], "expires": "2099-01-31"}
    audits.shell.write("accept.yaml", ACCEPT.format(**known))
    accepted = ("--all", "--accept", "accept.yaml")
    report = audits.report(*accepted)
    assert (report["violated"], report["accepted"], report["psd_ok"]) == (1, {"violated": 1}, False)
    assert report["results"][0]["acceptance"]["owner"] == "ana@example.org"
    assert any("k020" in warning and "accept.yaml" in warning for warning in report["warnings"])
    shown = audits(*accepted)
    assert (shown.code, "accepted until 2099-01-31 by ana@example.org" in shown.text) == (0, True)
    assert "1 violated (1 accepted)" in shown.text
    lines = audits(*accepted, "-o", "ndjson").lines
    assert [line["acceptance"]["state"] for line in lines if line.get("acceptance")] == ["accepted"]
    assert audits.report(*accepted, "--incremental")["accepted"] == {"violated": 1}
    assert "1 changed or known bad, 0 read again" in audits(*accepted, "--incremental").text
    for change in ({"expires": "2020-01-31"}, {"digest": "0" * 32}):
        audits.shell.write("accept.yaml", ACCEPT.format(**{**known, **change}))
        assert audits.report(*accepted, code=3)["accepted"] == {}


def test_a_sample(audits: Audits) -> None:
    audits.plant(k004=bad("k004"))
    drawn = audits.report("--all", "--sample", "10", "--seed", "7", code=3)
    again = audits.report("--all", "--sample", "10", "--seed", "7", code=3)
    assert drawn["statement"] == again["statement"]
    assert "of 10 drawn: at 95 % confidence" in drawn["statement"]
    assert drawn["results"] == again["results"]
    assert audits("--all", "--sample", "40").code == 3


def test_at_least_and_fail_fast(audits: Audits) -> None:
    assert audits("--all", "--at-least", "40").code == 0
    assert audits("--all", "--at-least", "41").code == 4
    audits.plant(k004=bad("k004"), k005=bad("k005"))
    report = audits.report("--all", "--fail-fast", code=3)
    assert (report["violated"], report["valid"]) == (1, 4)


def test_workers_find_the_same_in_the_same_order(audits: Audits) -> None:
    audits.plant(k004=bad("k004"), k021=bad("k021"), k038=bad("k038"))
    many = "from somactl.cli.commands import audit\naudit.FEW = 0\n" + SLOW
    for output in ("json", "ndjson"):
        one = audits("--all", "--jobs", "1", "-o", output, **{BEFORE: SLOW})
        two = audits("--all", "--jobs", "2", "-o", output, **{BEFORE: many})
        assert (one.code, two.code) == (3, 3), two.err
        first, second = (_without_times([r.json] if output == "json" else r.lines) for r in (one, two))
        assert first == second
    sources = [each["source"] for each in one.lines[:-1]]
    assert sources == KEYS


def _without_times(told: list[Any]) -> list[Any]:
    for name in ("started_at", "ended_at", "jobs", "coverage"):
        told[-1].pop(name)
    return told


@pytest.mark.parametrize(
    "words",
    [
        "--incremental",
        "--recheck 5%",
        "--all --recheck 5%",
        "--all --recheck 5 --incremental",
        "--all --match *",
        "--all --only-known-bad",
        "--match k* --only-known-bad",
        "--sample 3 k001",
        "--all --incremental --sample 3",
        "--all --seed 3",
        "--all --ledger f --no-ledger",
        "--match k* --ledger f",
        "--match k* --resume",
        "k001 --on-overlap wait",
        "--all --no-ledger --resume",
        "--all --no-ledger --incremental",
        "--only-known-bad --no-ledger",
        "--all --sample 3 --resume",
        "--all --from cache",
        "--only-known-bad --from cache",
        "--all --incremental --from cache",
        "--all --sample 3 --from cache",
        "--all --resume --from cache",
        "--all --ledger f --from cache",
        "",
    ],
)
def test_what_does_not_go_together(audits: Audits, words: str) -> None:
    result = audits(*shlex.split(words), "-o", "json")
    assert (result.code, result.out) == (2, b""), result.text
    line = result.error["next"]
    if line.startswith("somactl verify-psd"):
        assert audits.shell.line(line, env=audits.env).returncode in (0, 4), line


def test_the_pace_is_kept(audits: Audits) -> None:
    began = time.monotonic()
    audits.report("--all", "--rate", "40", **{BEFORE: SLOW})
    assert time.monotonic() - began > 0.6
    slow = SLOW + textwrap.dedent(
        """
        from somactl.store.sqlite.store import SqliteStore
        async def slow(self, head=SqliteStore.head):
            import asyncio
            await asyncio.sleep(0.05)
            return await head(self)
        SqliteStore.head = slow
        """
    )
    held = audits("--all", "--max-latency", "10ms", "--max-duration", "2s", "-o", "json", **{BEFORE: slow})
    assert held.code in (0, 4)  # as far as it came in that time
    assert held.json["held_back_seconds"] > 0.2

"""Errors that a file, a command line or an SQLite database brings about."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from somactl.report import AuditScope, VerifyReport
from somactl.report.evidence import write_evidence
from support.pipes import wait_until_read
from tests.cli.conftest import density, with_smallest_eigenvalue
from tests.suggested.stage import KEY, NAMESPACE, SECRET, Case, Fault, Stage

ROOT = Path(__file__).resolve().parents[2]
CASES: list[tuple[str, Case]] = []


def case(error: str):  # type: ignore[no-untyped-def]
    """Register a case: a generator that sets up, yields the Fault, and then asserts what is better now."""

    def register(function: Case) -> Case:
        CASES.append((error, function))
        return function

    return register


@case("UsageError")
def a_command_that_asks(stage: Stage) -> Iterator[Fault]:
    for seed in range(4):
        stage.put(seed=seed)
    stage.ok("init", "--keep-versions", "1")
    yield Fault(["compact", "--no-input"])
    assert stage.ok("-o", "json", "compact", "--dry-run").json["revisions"] == 0


@case("UsageError")
def an_option_that_does_not_exist(stage: Stage) -> Iterator[Fault]:
    yield Fault(["restore", "--partail", "--", KEY])


@case("UsageError")
def nothing_to_verify(stage: Stage) -> Iterator[Fault]:
    stage.put()
    yield Fault(["verify-psd"])


@case("EvidenceRejected")
def evidence_of_two_audits(stage: Stage) -> Iterator[Fault]:
    for name in ("the first", "-second"):
        scope = AuditScope(match="a*", upto=name)
        report = VerifyReport(method="certify", namespace=name, scope=scope, checked=1, valid=1, psd_ok=True)
        stage.write(name, write_evidence(report.finish()))
    yield Fault(["evidence", "merge", "--", "the first", "-second"])


@case("EvidenceRejected")
def evidence_that_was_edited(stage: Stage) -> Iterator[Fault]:
    data = write_evidence(VerifyReport(method="certify", checked=1, valid=1, psd_ok=True).finish())
    stage.write("audit.json", data.replace(b'"valid":1', b'"valid":2'))
    yield Fault(["evidence", "merge", "audit.json"], codes={"evidence": {11}})


@case("CorruptValue")
def a_bit_that_flipped(stage: Stage) -> Iterator[Fault]:
    stage.put(seed=1)
    stage.put(seed=2)
    stage.execute("UPDATE payload SET data = zeroblob(length(data)) WHERE id = (SELECT max(id) FROM payload)")
    yield Fault(["get", "--to", "out.env", "--", KEY])


@case("ConfigurationError")
def a_store_of_an_unknown_kind(stage: Stage) -> Iterator[Fault]:
    yield Fault(["ls", "--store", "mongodb://host/db"])


@case("SecretExposed")
def a_password_in_a_flag(stage: Stage) -> Iterator[Fault]:
    yield Fault(["ls", "--store", f"postgresql://me:{SECRET}@127.0.0.1/db"])


@case("SecretExposed")
def a_password_in_a_source(stage: Stage) -> Iterator[Fault]:
    yield Fault(["migrate-json", f"redis://:{SECRET}@127.0.0.1/0"])


@case("TargetRefused")
def a_folder_for_the_result_that_is_not_there(stage: Stage) -> Iterator[Fault]:
    stage.put()
    yield Fault(["get", "--to", "no such/out.env", "--", KEY])


@case("ResultNotWritten")
def a_disk_for_the_result_that_is_full(stage: Stage) -> Iterator[Fault]:
    stage.put()
    yield Fault(["get", "--to", "/dev/full", "--", KEY])


@case("KindRefused")
def a_rho_that_would_become_a_matrix(stage: Stage) -> Iterator[Fault]:
    stage.put(seed=1)
    yield Fault(["commit", "--kind", "matrix", "--", f"{KEY}=1.npy"])
    assert stage.ok("-o", "json", "ls").json["keys"][0]["version"] == 2


@case("InvalidName")
def a_key_with_a_newline(stage: Stage) -> Iterator[Fault]:
    yield Fault(["get", "a\nb"])


@case("InvalidFile")
def no_matrix(stage: Stage) -> Iterator[Fault]:
    stage.write("no matrix.npy", b"\x93NUMPY\x01\x00nonsense")
    yield Fault(["commit", "--", f"{KEY}=no matrix.npy"])


@case("InvalidJson")
def ragged_rows(stage: Stage) -> Iterator[Fault]:
    stage.write("ragged.json", "[[0.5, 0], [0]]")
    yield Fault(["commit", "--", f"{KEY}=ragged.json"])


@case("InputsRejected")
def several_bad_lines(stage: Stage) -> Iterator[Fault]:
    lines = ['{"key": "a", "value": [[1, 2], [3]]}', "nonsense", '{"key": 3, "value": [[1.0]]}']
    yield Fault(["commit"], stdin="\n".join(lines).encode())


def _attacks() -> Iterator[tuple[str, str]]:
    """One malformed envelope for each class of defect that a file can have."""
    manifest = json.loads((ROOT / "tests/attacks/manifest.json").read_text())
    seen = set()
    for name, facts in manifest.items():
        error = facts["error"]
        alone = name.endswith(".bin") and error not in ("WrongAddress", "Truncated", "BadMagic", "BadBase64")
        if (alone or name == "truncated_by_one.bin") and error not in seen:
            seen.add(error)
            yield error, name


def _attack(name: str) -> Case:
    def attacked(stage: Stage) -> Iterator[Fault]:
        shutil.copy(ROOT / "tests/attacks" / name, stage.folder / "it.env")
        yield Fault(["commit", "--namespace", "default", "k=it.env"])

    attacked.__name__ = f"the_envelope_{name.partition('.')[0]}"
    return attacked


CASES += [(error, _attack(name)) for error, name in _attacks()]


@case("WrongAddress")
def an_envelope_of_another_key(stage: Stage) -> Iterator[Fault]:
    stage.put("other")
    stage.ok("get", "other", "--to", "other.env")
    yield Fault(["commit", "--", f"{KEY}=other.env"])
    assert stage.ok("-o", "json", "ls").json["total"] == 2


@case("LimitExceeded")
def more_keys_than_a_commit_takes(stage: Stage) -> Iterator[Fault]:
    lines = "".join(f'{{"key": "{i}", "value": null}}\n' for i in range(65_537))
    yield Fault(["commit"], stdin=lines.encode(), twice=False)


@case("InvariantViolated")
def a_trace_of_two(stage: Stage) -> Iterator[Fault]:
    stage.save("two.npy", 2 * density(4))
    yield Fault(["commit", "--", f"{KEY}=two.npy"])
    assert stage.ok("-o", "json", "ls").json["total"] == 1


@case("InvariantViolated")
def negative_within_tolerance(stage: Stage) -> Iterator[Fault]:
    stage.save("near.npy", with_smallest_eigenvalue(density(8), -5e-9))
    yield Fault(["commit", "--on-clampable", "refuse", "--", f"{KEY}=near.npy"])
    assert stage.ok("-o", "json", "ls").json["total"] == 1


@case("InvariantViolated")
def no_square(stage: Stage) -> Iterator[Fault]:
    stage.save("wide.npy", np.ones((2, 3)))
    yield Fault(["commit", "--kind", "rho", "--", f"{KEY}=wide.npy"])
    assert stage.ok("-o", "json", "ls").json["total"] == 1


@case("InvariantViolated")
def far_from_a_density_matrix(stage: Stage) -> Iterator[Fault]:
    stage.save("far.npy", np.diag([1.2, -0.2]))
    yield Fault(["commit", "--", f"{KEY}=far.npy"])


@case("EmptyCommit")
def no_lines(stage: Stage) -> Iterator[Fault]:
    yield Fault(["commit"], stdin=b"\n\n")


@case("CommitIdReused")
def an_id_for_another_request(stage: Stage) -> Iterator[Fault]:
    stage.put(KEY, 1, "--commit-id", "nightly-7")
    stage.save("2.npy", density(4, seed=2))
    yield Fault(["commit", "--commit-id", "nightly-7", "--", f"{KEY}=2.npy"])
    assert stage.ok("-o", "json", "ls").json["keys"][0]["version"] == 2


@case("CommitExpired")
def an_id_of_last_year(stage: Stage) -> Iterator[Fault]:
    stage.put(seed=1)
    milliseconds = int((time.time() - 400 * 86_400) * 1000)
    old = uuid.UUID(int=(milliseconds << 80) | (7 << 76) | (2 << 62) | 5)
    yield Fault(["commit", "--commit-id", str(old), "--", f"{KEY}=1.npy"])
    assert stage.ok("-o", "json", "ls").json["keys"][0]["version"] == 2


@case("CommitAborted")
def an_id_that_was_given_up(stage: Stage) -> Iterator[Fault]:
    stage.put(seed=1)
    stage("status", "late", "--resolve")
    yield Fault(["commit", "--commit-id", "late", "--", f"{KEY}=1.npy"])
    assert stage.ok("-o", "json", "ls").json["keys"][0]["version"] == 2


@case("OrderRefused")
def an_order_for_another_namespace(stage: Stage) -> Iterator[Fault]:
    stage.put()
    order = {"order_id": "o", "issuer": "m", "sequence": 1, "namespace": "other"}
    order |= {"issued_at": time.time(), "expires_at": time.time() + 600, "keys": ["a"]}
    stage.write("order.json", json.dumps(order))
    yield Fault(["prune", "--order-file", "order.json"])


@case("VersionConflict")
def a_key_that_moved_on(stage: Stage) -> Iterator[Fault]:
    stage.put(seed=1)
    yield Fault(["commit", "--expect", "7", "--", f"{KEY}=1.npy"])


@case("VersionConflict")
def an_order_that_is_out_of_date(stage: Stage) -> Iterator[Fault]:
    stage.put(KEY)
    stage.put("b")
    stage.write("order", "\n".join(json.dumps({"key": key, "version": 7}) for key in (KEY, "b")))
    yield Fault(["prune", "--order-file", "order", "--changed", "fail"])


@case("PlanStale")
def a_source_that_changed(stage: Stage) -> Iterator[Fault]:
    stage.write("old.json", "[[0.5, 0.0], [0.0, 0.5]]")
    dry = stage("-o", "json", "migrate-json", "--dry-run", "--plan-file", "the plan", "--", f"{KEY}=old.json")
    assert dry.code == 0, dry.err
    stage.write("old.json", "[[0.25, 0.0], [0.0, 0.75]]")
    yield Fault(["migrate-json", "--apply", "the plan", "--", f"{KEY}=old.json"])
    assert stage("migrate-json", "--apply", "the plan", "--", f"{KEY}=old.json").code == 0


@case("InputRejected")
def a_plan_that_was_edited(stage: Stage) -> Iterator[Fault]:
    stage.write("old.json", "[[0.5, 0.0], [0.0, 0.5]]")
    stage("migrate-json", "old.json", "--dry-run", "--plan-file", "the plan")
    plan = (stage.folder / "the plan").read_text()
    stage.write("the plan", plan.replace("old", "new"))
    yield Fault(["migrate-json", "old.json", "--apply", "the plan"])
    assert stage("migrate-json", "old.json", "--apply", "the plan").code == 0


@case("SchemaMismatch")
def the_database_of_another_program(stage: Stage) -> Iterator[Fault]:
    stage.execute("CREATE TABLE theirs (id INTEGER)")
    yield Fault(["ls"])


@case("StoreUnavailable")
def a_folder_that_is_not_there(stage: Stage) -> Iterator[Fault]:
    yield Fault(
        ["commit", "--store", "sqlite:///no/where.db", "--", f"{KEY}={stage.save('a.npy', density(2))}"]
    )


@case("StoreDamaged")
def a_page_of_zeros(stage: Stage) -> Iterator[Fault]:
    for seed in range(3):
        stage.put(seed=seed)
    stage.execute("PRAGMA wal_checkpoint(TRUNCATE);")
    path = stage.folder / "my store.db"
    data = bytearray(path.read_bytes())
    data[4096:] = bytes(len(data) - 4096)
    path.write_bytes(bytes(data))
    yield Fault(["log"])


@case("NotFound")
def a_migration_that_never_was(stage: Stage) -> Iterator[Fault]:
    stage.put()
    yield Fault(["migration", "revert", "nope", "--yes"])


@case("KeyNotFound")
def a_deleted_key(stage: Stage) -> Iterator[Fault]:
    stage.put()
    stage.ok("rm", "--", KEY)
    yield Fault(["get", "--to", "out.env", "--", KEY])
    stage.ok("get", "--to", "out.env", "--", KEY)


@case("KeyNotFound")
def a_key_that_never_was(stage: Stage) -> Iterator[Fault]:
    stage.put("a")
    yield Fault(["get", "--to", "out.env", "--", KEY])


@case("KeyNotFound")
def a_key_to_delete_that_is_not_there(stage: Stage) -> Iterator[Fault]:
    stage.put("a")
    yield Fault(["rm", "--", KEY])


@case("KeyNotFound")
def an_order_with_a_key_that_is_not_there(stage: Stage) -> Iterator[Fault]:
    stage.put("a")
    stage.write("order", f"{KEY}\na\n")
    yield Fault(["prune", "--order-file", "order", "--missing", "fail"])
    assert stage.ok("-o", "json", "ls").json["total"] == 0


@case("NamespaceNotFound")
def a_database_that_is_not_there(stage: Stage) -> Iterator[Fault]:
    yield Fault(["ls"])
    stage.ok("ls")


@case("NamespaceNotFound")
def a_namespace_that_is_not_there(stage: Stage) -> Iterator[Fault]:
    stage.ok("init", "--namespace", "another")
    yield Fault(["ls"])
    names = [view["namespace"] for view in stage.ok("-o", "json", "namespaces").json["namespaces"]]
    assert sorted(names) == sorted(["another", NAMESPACE])


@case("CommitNotFound")
def a_commit_that_never_was(stage: Stage) -> Iterator[Fault]:
    stage.put()
    yield Fault(["restore", "--commit", "never-was"])


@case("VersionCompacted")
def a_version_that_was_compacted(stage: Stage) -> Iterator[Fault]:
    for seed in range(3):
        stage.put(seed=seed)
    stage.ok("init", "--keep-versions", "1", "--keep-days", "0")
    stage.ok("compact", "--yes")
    yield Fault(["get", "--version", "1", "--to", "out.env", "--", KEY])


@case("LockHeld")
def a_migration_that_another_run_takes_up(stage: Stage) -> Iterator[Fault]:
    stage.ok("init")
    stage.write("the old ones.json", "[[0.5, 0.0], [0.0, 0.5]]")
    stage.execute(
        "CREATE TRIGGER another AFTER INSERT ON note BEGIN "
        "UPDATE note SET version = version + 1 WHERE name = NEW.name; END;"
    )
    yield Fault(
        ["migrate-json", "the old ones.json"],
        mend=lambda: stage.execute("DROP TRIGGER another"),
        twice=False,
    )


def interrupted(stage: Stage, signal: int, code: int) -> None:
    """A command that waits for its input is ended by a signal, and suggests nothing that could fail."""
    process = stage.begin(*stage.where, "commit", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    wait_until_read(process.stdin.fileno())
    process.send_signal(signal)
    process.wait(timeout=60)  # before its input ends: the signal has a longer way
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert b"try:" not in err


def read_line(line: str) -> list[str]:
    """The words of a suggested line, as a shell reads them."""
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]

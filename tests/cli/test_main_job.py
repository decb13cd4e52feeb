"""Commit, read back, look, undo: what operators do all day."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.cli.conftest import Shell, density, with_smallest_eigenvalue


def test_a_commit_is_proven_and_reported(shell: Shell) -> None:
    rho = density(12)
    report = shell.commit("a", rho)
    (item,) = report["items"]
    assert report["command"] == "commit"
    assert report["version"] == 1
    assert report["stores"] == [{"store": "sqlite", "durability": "fsync"}]
    assert item["verdict"]["status"] == "valid"
    assert item["verdict"]["rigour"] == "proved"
    assert item["layout"] == "hermitian"
    assert report["undo"] == f"somactl restore --commit {report['commit_id']}"


def test_the_commit_id_is_on_stderr_before_the_report(shell: Shell) -> None:
    shell.save("a.npy", density(4))
    result = shell.ok("commit", "a=a.npy", "--commit-id", "release-7")
    assert "commit release-7" in result.err


@pytest.mark.parametrize("imaginary", [False, True])
@pytest.mark.parametrize("form", ["npy", "envelope", "base64", "json"])
def test_what_was_committed_comes_back_bit_for_bit(shell: Shell, form: str, imaginary: bool) -> None:
    rho = density(9, imaginary=imaginary)
    shell.commit("a", rho)
    shell.ok("get", "a", "--as", form, "--to", "out")
    # Whatever form `get` writes, `commit` reads, and the content digest is that of the first commit.
    shell.ok("commit", "a=out")
    first, second = (r["content"] for r in shell.ok("log", "a", "--output", "json").json["revisions"])
    assert first == second
    shell.ok("get", "a", "--as", "npy", "--to", "back.npy")
    assert np.array_equal(np.load(shell.folder / "back.npy"), rho)


def test_get_writes_the_envelope_to_stdout_for_the_next_command(shell: Shell) -> None:
    shell.commit("a", density(5))
    envelope = shell.ok("get", "a").out
    report = shell.ok("verify-psd", "--file", "-", "--output", "json", stdin=envelope).json
    assert (report["checked"], report["valid"], report["rigour"]) == (1, 1, "proved")


def test_several_keys_and_ndjson_in_one_version(shell: Shell) -> None:
    shell.save("a.npy", density(3))
    np.savez(shell.folder / "b.npz", density(4))
    report = shell.ok("commit", "x=1=a.npy", "acme:(9.0, 14.0):data=b.npz", "-o", "json").json
    assert {item["key"] for item in report["items"]} == {"x=1", "acme:(9.0, 14.0):data"}
    lines = b'{"key": "c", "value": [[0.5, 0.0], [0.0, 0.5]]}\n\n{"key": "x=1", "value": null}\n'
    report = shell.ok("commit", "-o", "json", stdin=lines).json
    assert report["version"] == 2
    assert [(i["key"], i["action"]) for i in report["items"]] == [("c", "put"), ("x=1", "delete")]


def test_ls_patterns_deleted_and_restore(shell: Shell) -> None:
    for key in ("n:1", "n:2", "m[1]"):
        shell.commit(key, density(3))
    assert [k["key"] for k in shell.ok("ls", "-o", "json").json["keys"]] == ["m[1]", "n:1", "n:2"]
    assert [k["key"] for k in shell.ok("ls", "--match", "m[1]", "-o", "json").json["keys"]] == ["m[1]"]
    assert [k["key"] for k in shell.ok("ls", "--match", "n:?", "-o", "ndjson").lines[:-1]] == ["n:1", "n:2"]
    removed = shell.ok("rm", "n:1", "n:2", "-o", "json").json
    deleted = shell.ok("ls", "--deleted", "-o", "json").json["keys"]
    assert [k["key"] for k in deleted] == ["n:1", "n:2"]
    assert all(k["recoverable_until"] > k["committed_at"] for k in deleted)
    shell.ok(*removed["undo"].split()[1:])
    assert shell.ok("ls", "-o", "json").json["total"] == 3


def test_restore_one_key_to_an_older_version(shell: Shell) -> None:
    old = shell.commit("a", density(4, seed=1))["items"][0]["content"]
    shell.commit("a", density(4, seed=2))
    report = shell.ok("restore", "a", "--version", "1", "-o", "json").json
    assert report["version"] == 3
    assert report["items"][0]["content"] == old


def test_undoing_a_commit_is_guarded_by_what_came_after(shell: Shell) -> None:
    first = shell.commit("a", density(4, seed=1))["commit_id"]
    shell.commit("a", density(4, seed=2))
    result = shell("restore", "--commit", first, "-o", "json")
    assert result.code == 12
    assert "a" in result.error["facts"]["conflicts"]


def test_undoing_a_commit_reverts_puts_deletes_and_creations_together(shell: Shell) -> None:
    shell.commit("kept", density(3, seed=1))
    shell.commit("gone", density(3, seed=2))
    kept, gone = (k["content"] for k in reversed(shell.ok("ls", "-o", "json").json["keys"]))
    line = json.dumps({"key": "kept", "value": density(3, seed=3).tolist()})
    new = json.dumps({"key": "new", "value": density(3, seed=4).tolist()})
    stdin = f'{line}\n{new}\n{{"key": "gone", "value": null}}\n'.encode()
    commit = shell.ok("commit", "-o", "json", stdin=stdin).json
    shell.ok("restore", "--commit", commit["commit_id"])
    now = {k["key"]: k["content"] for k in shell.ok("ls", "-o", "json").json["keys"]}
    assert now == {"kept": kept, "gone": gone}
    # Undone once: who repeats it, not knowing that, is told so, and nothing is written.
    for words in ([], ["--dry-run"], ["--commit-id", "again"]):
        repeated = shell.ok("restore", "--commit", commit["commit_id"], *words, "-o", "json").json
        assert (repeated["already"], repeated["version"]) == (3, None)
        assert "was undone before" in repeated["warnings"][0]
    assert shell.ok("log", "-o", "json").json["commits"][0]["version"] == 4
    shell.commit("kept", density(3, seed=5))
    assert shell("restore", "--commit", commit["commit_id"]).code == 12


def test_a_stale_writer_gets_a_conflict_and_the_same_id_writes_once(shell: Shell) -> None:
    shell.commit("a", density(4, seed=1), "--expect", "0", "--commit-id", "one")
    result = shell("commit", "a=value.npy", "--expect", "a=7", "-o", "json")
    assert result.code == 12
    assert (
        result.error["facts"]["conflicts"]["a"]["expected"]
        != result.error["facts"]["conflicts"]["a"]["found"]
    )
    assert shell.commit("a", density(4, seed=1), "--expect", "0", "--commit-id", "one")["replayed"] is True
    shell.save("other.npy", density(4, seed=9))
    assert shell("commit", "a=other.npy", "--commit-id", "one").code == 11
    assert shell.ok("log", "-o", "json").json["commits"][0]["version"] == 1


def test_expectations_by_digest_and_incarnation(shell: Shell) -> None:
    report = shell.commit("a", density(4, seed=1))
    content, incarnation = report["items"][0]["content"], report["incarnation"]
    assert shell("commit", "a=value.npy", "--expect", f"sha:{'0' * 32}").code == 12
    for digest in ("", "zz", "0" * 31, "g" * 32):
        assert shell("commit", "a=value.npy", "--expect", f"a=sha:{digest}").code == 2
    assert shell("commit", "a=value.npy", "--expect", f"{'0' * 32}:1").code == 12
    shell.ok("commit", "a=value.npy", "--expect", f"sha:{content}")
    shell.ok("commit", "a=value.npy", "--expect", f"a={incarnation}:2")


def test_status_tells_and_resolve_keeps_a_late_arrival_out(shell: Shell) -> None:
    shell.commit("a", density(3), "--commit-id", "one")
    assert shell.ok("status", "one", "-o", "json").json["commit"]["state"] == "committed"
    unseen = shell("status", "two", "-o", "json")
    assert (unseen.code, unseen.json["commit"]["state"], unseen.json["final"]) == (15, "unseen", False)
    resolved = shell("status", "two", "--resolve", "-o", "json")
    assert (resolved.code, resolved.json["commit"]["state"], resolved.json["final"]) == (15, "aborted", True)
    late = shell("commit", "a=value.npy", "--commit-id", "two", "-o", "json")
    assert (late.code, late.error["error"]) == (11, "CommitAborted")


def test_show_check_and_spectrum(shell: Shell) -> None:
    shell.commit("a", density(20, rank=3), "--metadata", "source=test")
    shown = shell.ok("show", "a", "--spectrum", "-o", "json").json
    assert shown["stored_verdict"]["status"] == "valid"
    assert shown["verdict"]["spectrum"]["rank"] == 3
    table = shell.ok("show", "a", "--spectrum").text
    assert "rank 3 of 20" in table
    assert "█" in table
    assert "source=test" in shell.ok("log").text


def test_a_clampable_matrix_is_stored_clamped_and_says_how_far(shell: Shell) -> None:
    file = shell.save("a.npy", with_smallest_eigenvalue(density(8), -5e-9))
    result = shell.ok("commit", f"a={file}", "-o", "json")
    (move,) = result.json["items"][0]["moves"]
    assert move["method"] == "clamp"
    assert 1e-9 < move["distance"] < 1e-7
    assert "clamp moved it by" in result.err
    refused = shell("commit", f"a={file}", "--on-clampable", "refuse", "-o", "json")
    assert (refused.code, refused.error["error"]) == (11, "InvariantViolated")


def test_clamp_needs_a_distance_and_keeps_to_it(shell: Shell) -> None:
    file = shell.save("a.npy", with_smallest_eigenvalue(density(8), -1e-3))
    refused = shell("commit", f"a={file}")
    assert refused.code == 11
    assert "by a witness vector" in refused.err
    assert "RUNBOOKS/RHO_VIOLATION.md" in refused.err
    assert shell("commit", f"a={file}", "--clamp").code == 2
    assert shell("commit", f"a={file}", "--clamp", "--max-move", "1e-6").code == 11
    assert shell.is_empty()
    shell.ok("commit", f"a={file}", "--clamp", "--max-move", "0.01")
    shell.ok("verify-psd", "a")


def test_normalize_and_single_precision_state_their_distance(shell: Shell) -> None:
    file = shell.save("a.npy", density(64, rank=1) * 1.01)
    assert shell("commit", f"a={file}").code == 11
    report = shell.ok("commit", f"a={file}", "--normalize", "--dtype", "float32", "-o", "json").json
    (item,) = report["items"]
    assert item["dtype"] == "float32"
    assert {"normalize", "round"} <= {move["method"] for move in item["moves"]}
    assert item["verdict"]["status"] == "valid"
    shell.ok("verify-psd", "a")


def test_a_dry_run_proves_everything_and_writes_nothing(shell: Shell) -> None:
    file = shell.save("a.npy", density(5))
    shell.ok("init")
    before = (shell.folder / "somactl.db").read_bytes()
    report = shell.ok("commit", f"a={file}", "--dry-run", "-o", "json").json
    assert report["dry_run"] is True
    assert report["items"][0]["verdict"]["status"] == "valid"
    assert shell("commit", f"a={file}", "--dry-run", "--expect", "4").code == 12
    assert shell.is_empty()
    assert (shell.folder / "somactl.db").read_bytes() == before


def test_factor_sketch_and_plain_matrix(shell: Shell) -> None:
    factor = np.linalg.qr(np.random.default_rng(1).standard_normal((30, 3)))[0] / np.sqrt(3)
    shell.ok("commit", f"f={shell.save('f.npy', factor)}", "--layout", "factor")
    shell.ok("commit", f"s={shell.save('s.npy', np.ones((4, 9)))}", "--kind", "sketch")
    shell.ok("commit", f"m={shell.save('m.npy', np.arange(6.0).reshape(2, 3))}", "--kind", "matrix")
    assert shell("commit", f"r={shell.save('s.npy', np.ones((4, 9)))}").code == 11
    report = shell.ok("verify-psd", "--all", "-o", "json").json
    assert (report["valid"], report["skipped"]) == (1, 2)


def test_namespaces_are_apart(shell: Shell) -> None:
    shell.commit("a", density(3), "--namespace", "acme")
    assert shell("get", "a").code == 15
    shell.commit("a", density(3))
    names = [v["namespace"] for v in shell.ok("namespaces", "-o", "json").json["namespaces"]]
    assert names == ["acme", "default"]
    shell.ok("verify-psd", "a", "-n", "acme")


def test_compact_asks_first_and_says_what_it_removed(shell: Shell) -> None:
    shell.ok("init", "--keep-versions", "2", "--keep-days", "30")
    for seed in range(4):
        shell.commit("a", density(6, seed=seed))
    assert shell("compact").code == 2
    assert shell.ok("compact", "--dry-run", "-o", "json").json["revisions"] == 2
    assert shell.ok("compact", "--yes", "-o", "json").json["revisions"] == 2
    gone = shell("get", "a", "--version", "1", "-o", "json")
    assert (gone.code, gone.error["error"]) == (15, "VersionCompacted")
    shell.ok("get", "a", "--version", "3", "--to", "kept")


def test_init_is_safe_to_repeat(shell: Shell) -> None:
    first = shell.ok("init", "-o", "json").json["head"]
    second = shell.ok("init", "--keep-days", "14", "-o", "json").json["head"]
    assert first["incarnation"] == second["incarnation"]
    assert second["retention"]["seconds"] == 14 * 86_400


def test_the_demo_runs_and_keeps_its_database(shell: Shell) -> None:
    result = shell.ok("demo", "--keep", "tour.db")
    assert result.err == ""
    assert "7. " in result.text
    listed = shell.ok("ls", "--store", "sqlite:///tour.db", "--namespace", "demo", "-o", "json").json
    assert listed["total"] == 10


def test_a_factor_envelope_keeps_its_layout_and_is_never_multiplied_out(shell: Shell) -> None:
    factor = np.linalg.qr(np.random.default_rng(1).standard_normal((30, 3)))[0] / np.sqrt(3)
    shell.ok("commit", f"f={shell.save('f.npy', factor)}", "--layout", "factor")
    shell.ok("get", "f", "--to", "f.env")
    report = shell.ok("commit", "f=f.env", "-o", "json").json
    (item,) = report["items"]
    assert (item["layout"], item["shape"], item["verdict"]["route"]) == ("factor", [30, 3], "factor")
    assert shell.ok("verify-psd", "--file", "f.env", "-o", "json").json["valid"] == 1

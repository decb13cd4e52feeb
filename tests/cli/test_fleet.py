"""One audit in several processes: shards that add up, and options that say where the work is done."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Shell, density


def filled(shell: Shell, count: int = 12) -> None:
    for number in range(count):
        shell.save(f"{number}.npy", density(4, seed=number))
    shell.ok("commit", *(f"k{number:02}={number}.npy" for number in range(count)))


def test_shards_add_up_to_one_audit(shell: Shell) -> None:
    filled(shell)
    for index in (1, 2, 3):
        shell.ok("verify-psd", "--all", "--shard", f"{index}/3", "--evidence", f"{index}.json")
    merged = shell.ok("evidence", "merge", "3.json", "1.json", "2.json", "-o", "json").json
    whole = shell.ok("verify-psd", "--all", "-o", "json").json
    assert merged["audit"]["checked"] == whole["checked"] == 12
    assert merged["audit"]["lowest_lambda_min"] == whole["lowest_lambda_min"]
    assert shell("evidence", "merge", "1.json", "3.json").code != 0


def test_a_pod_of_an_indexed_job_takes_its_own_shard(shell: Shell) -> None:
    filled(shell)
    job = {"JOB_COMPLETION_COUNT": "2", "SOMACTL_AUDIT_RUN": "audit-x7"}
    counts = []
    for index in ("0", "1"):
        env = {**job, "JOB_COMPLETION_INDEX": index}
        report = shell.ok("verify-psd", "--all", "--shard", "auto", "-o", "json", env=env).json
        assert (report["scope"]["shard"], report["scope"]["plan"]) == (f"{int(index) + 1}/2", "audit-x7")
        counts.append(report["checked"])
    assert sum(counts) == 12
    assert all(counts)
    outside = shell("verify-psd", "--all", "--shard", "auto")
    assert (outside.code, "JOB_COMPLETION_INDEX" in outside.err) == (10, True)


def test_an_incremental_shard_keeps_to_its_keys(shell: Shell) -> None:
    filled(shell)
    shell.ok("verify-psd", "--all")
    words = ["verify-psd", "--all", "--incremental", "--recheck", "100%", "--shard", "2/2", "-o", "json"]
    report = shell.ok(*words).json
    assert report["coverage"]["unchanged"] == report["coverage"]["rechecked"] == report["checked"]
    assert 0 < report["checked"] < 12


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--match", "k*", "--shard", "1/2"], "--shard goes with --all"),
        (["--all", "--sample", "2", "--shard", "1/2"], "--shard and --sample do not go together"),
        (["--all", "--shard", "1/2", "--from", "both"], "a cache has no shards"),
        (["--all", "--run", "x"], "--run goes with --shard"),
        (["--all", "--dask", "tcp://127.0.0.1:1", "--jobs", "2"], "--dask and --jobs"),
        (["--all", "--shard", "3/2"], "there is no shard 3 of 2"),
    ],
)
def test_what_does_not_go_together(shell: Shell, words: list[str], said: str) -> None:
    filled(shell, 1)
    result = shell("verify-psd", *words)
    assert (result.code, said in result.err) == (2, True), result.err


def test_a_scheduler_that_is_none(shell: Shell) -> None:
    filled(shell, 1)
    result = shell("verify-psd", "--all", "--dask", "nonsense")
    assert result.code == 10, result.err
    assert "nonsense" in result.err

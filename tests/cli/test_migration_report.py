"""What an operator reads after a migration, besides what its report holds."""

from __future__ import annotations

import json
import subprocess
import sys

from somactl.cli.render_migration import migration_view
from somactl.report import MigrateReport, MigrationRow
from tests.cli.conftest import Shell

HALF = [[0.5, 0.0], [0.0, 0.5]]
LINES = "".join(
    json.dumps({"key": key, "value": value}) + "\n"
    for key, value in {"whole": HALF, "inside": {"rho": HALF}, "bad": [[1.2, 0.0], [0.0, -0.2]]}.items()
).encode()


def test_the_sum_of_it_stands_at_the_end_and_says_how_many_matrices_were_copied(shell: Shell) -> None:
    result = shell("migrate-json", stdin=LINES)
    assert result.code == 3
    lines = result.text.splitlines()
    assert lines[0].startswith("REJECTED")
    summary = next(line for line in lines if line.startswith("migration "))
    assert summary.endswith("3 values looked at, 1 matrices copied; the source is as it was")
    assert lines.index(summary) > next(n for n, line in enumerate(lines) if line.startswith("OUTCOME"))


def test_a_run_that_does_not_look_into_objects_says_how_to(shell: Shell) -> None:
    for words in (["--dry-run"], []):
        report = shell("migrate-json", *words, "--output", "json", stdin=LINES).json
        assert any("not looked into: 1 objects or lists; --discover" in each for each in report["warnings"])
    for words in (["--discover"], ["--pointer", "/rho"]):
        report = shell("migrate-json", *words, "--dry-run", "--output", "json", stdin=LINES).json
        assert not any("looked into" in each for each in report["warnings"])


def test_a_list_that_is_not_all_of_it_says_where_the_rest_is() -> None:
    rows = [MigrationRow(key="bad", outcome="rejected", why="key 'bad': ragged")]
    report = MigrateReport(store="s", namespace="n", rejected=rows, rejected_omitted=7, phase="planned")
    lines = migration_view(report)
    assert lines[:3] == [
        "REJECTED  WHY", "bad       ragged", "... and 7 more; --output ndjson has a line for each"
    ]  # fmt: skip
    report.rejected_omitted = 0
    assert not any("more" in line for line in migration_view(report))


def test_the_first_matrix_is_not_charged_with_what_is_loaded_for_it() -> None:
    code = """
import sys
from somactl.legacy.batches import examine_batch
from somactl.legacy.request import MigrationRequest
from somactl.legacy import examine
from somactl.legacy.source.contract import Value
before = []
original = examine.find_matrices
def find(*arguments, **options):
    before.append(set(sys.modules))
    return original(*arguments, **options)
examine.find_matrices = find
examine_batch([Value("key", "text", b"[[0.5, 0.0], [0.0, 0.5]]")], "default", MigrationRequest())
loaded = {name.partition(".")[0] for name in set(sys.modules) - before[0]}
print(sorted(loaded & {"numpy", "scipy", "somactl"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

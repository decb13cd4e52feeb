"""`examples/ci`: a pull request goes red where a legacy value cannot be migrated, and says which."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from servers.external import ExternalPostgres
from servers.postgres import PostgresServer, binary

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples/ci/dry-run"
WORKFLOW = ROOT / "examples/ci/migration.yml"
DUMP = ROOT / "tests/data/legacy/kv_store.sql"
SOUND = ("--match", "acme:rho:?")

pytestmark = pytest.mark.source


class Pipeline:
    """A checkout in which a job of the CI runs the script."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        programs = [Path(sys.executable).parent, binary("psql").parent]
        self.env = {
            "PATH": os.pathsep.join([*map(str, programs), os.environ["PATH"]]),
            "HOME": str(folder),
            "OPENBLAS_NUM_THREADS": "1",
            "LEGACY_URL": url,
            "OUT": "out",
        }

    def __call__(self, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SCRIPT, *options],
            cwd=self.folder,
            env=self.env | env,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def report(self) -> Any:
        return json.loads((self.folder / "out/report.json").read_text())

    def keep_as_baseline(self) -> str:
        (self.folder / "baseline.json").write_bytes((self.folder / "out/report.json").read_bytes())
        return "baseline.json"


@pytest.fixture
def pipeline(tmp_path: Path, legacy_postgres: str) -> Pipeline:
    """The copy is there already."""
    return Pipeline(tmp_path, legacy_postgres)


def test_a_dump_with_broken_matrices_turns_the_job_red_and_leaves_plan_and_report(
    tmp_path: Path, postgres_server: PostgresServer | ExternalPostgres
) -> None:
    url = postgres_server.create_database()
    pipeline = Pipeline(tmp_path, url)
    summary = tmp_path / "summary.md"
    done = pipeline("--discover", DUMP=str(DUMP), GITHUB_STEP_SUMMARY=str(summary))
    postgres_server.drop_database(url)

    assert done.returncode == 3, done.stderr
    rejected = {row["key"] for row in pipeline.report["rejected"]}
    assert rejected >= {"acme:rho:neg", "acme:rho:trace", "acme:rho:asym", "acme:broken:b64"}
    for key in rejected:
        assert f"rejected: {key}: " in done.stdout
        assert f"rejected: {key}: " in summary.read_text()
    plan = (tmp_path / "out/plan.ndjson").read_text().splitlines()
    assert {json.loads(line)["key"] for line in plan[1:-1]} >= rejected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "summary.md"], "no store was made"


def test_sound_values_pass(pipeline: Pipeline) -> None:
    done = pipeline(*SOUND)
    assert done.returncode == 0, done.stderr
    assert pipeline.report["outcomes"]["migrate"]["count"] == 7


def test_two_runs_say_the_same_to_the_byte_and_a_baseline_holds_them_to_it(pipeline: Pipeline) -> None:
    pipeline(*SOUND)
    baseline = pipeline.keep_as_baseline()
    assert pipeline(*SOUND, BASELINE=baseline).returncode == 0

    done = pipeline("--match", "acme:rho:[0-9]", BASELINE=baseline)  # a bracket is itself: nothing matches
    assert done.returncode == 4  # what was not looked at has not passed
    assert '+    "values": 0,' in done.stdout


def test_a_baseline_of_another_folder_is_the_same(pipeline: Pipeline) -> None:
    """The plan's path stands in the command that the report suggests."""
    pipeline(*SOUND)
    baseline = pipeline.keep_as_baseline()
    assert "out/plan.ndjson" in (pipeline.folder / baseline).read_text()
    done = pipeline(*SOUND, OUT="another", BASELINE=baseline)
    assert done.returncode == 0, done.stdout
    assert "another/plan.ndjson" in (pipeline.folder / "another/report.json").read_text()


def test_known_rejects_pass_only_where_that_was_asked_for_and_they_are_the_very_same(
    pipeline: Pipeline,
) -> None:
    broken = ("--match", "acme:broken:*")
    pipeline(*broken)
    baseline = pipeline.keep_as_baseline()
    assert pipeline(*broken, BASELINE=baseline).returncode == 3
    assert pipeline(*broken, BASELINE=baseline, ACCEPT_KNOWN="yes").returncode == 0
    other = ("--match", "acme:rho:neg")
    assert pipeline(*other, BASELINE=baseline, ACCEPT_KNOWN="yes").returncode == 3


def test_what_could_not_be_told_is_no_pass(pipeline: Pipeline) -> None:
    done = pipeline(LEGACY_URL=f"{pipeline.env['LEGACY_URL']}?table=nothing", BASELINE="baseline.json")
    assert done.returncode == 15
    assert "no table nothing" in done.stderr


def test_the_workflow_calls_the_script_and_uploads_what_it_leaves() -> None:
    text = WORKFLOW.read_text()
    (script, words) = re.findall(r"run: (examples/\S+)(.*)", text)[0]
    assert (ROOT / script).samefile(SCRIPT)
    assert words.split() == ["--discover"]
    out = re.findall(r"^ +OUT: (\S+)$", text, re.MULTILINE)[0]
    for name in ("plan.ndjson", "report.json"):
        assert f"{out}/{name}" in text
    documented = set(re.findall(r"^#   ([A-Z_]+) ", SCRIPT.read_text(), re.MULTILINE))
    settings = text.partition("    env:\n      LEGACY")[2].partition("    steps:")[0]
    assert set(re.findall(r"^ +([A-Z_]+): ", "      LEGACY" + settings, re.MULTILINE)) <= documented

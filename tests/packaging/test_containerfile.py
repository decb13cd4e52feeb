"""The Containerfile, held to its promises without an engine; what it copies is built and started."""

from __future__ import annotations

import json
import re
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

from somactl.cli.app import COMMANDS
from tests.packaging.test_installed import new_environment, pip, run

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.source


class Instruction(NamedTuple):
    name: str
    words: str


def read() -> list[Instruction]:
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Containerfile").read_text(encoding="utf-8"), flags=re.M)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [Instruction(*line.split(maxsplit=1)) for line in lines if line.strip()]


# Where the sources are away, this file is looked at, and none of its tests is run.
ALL = read() if (ROOT / "Containerfile").exists() else []
LAST = ALL[max((number for number, each in enumerate(ALL) if each.name == "FROM"), default=0) :]


def only(name: str, stage: list[Instruction]) -> str:
    (found,) = [each.words for each in stage if each.name == name]
    return found


def copied() -> list[str]:
    """What of the sources goes into the build."""
    found = [each.words.split() for each in ALL if each.name == "COPY" and "--from" not in each.words]
    return [source for *sources, _ in found for source in sources]


def ignored(path: str) -> bool:
    """As `.containerignore` has it: the last line that fits decides, and what is in a folder goes as that."""
    verdict = False
    for line in (ROOT / ".containerignore").read_text(encoding="utf-8").split("\n"):
        pattern = line.strip().removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        parents = ["/".join(path.split("/")[:depth]) for depth in range(1, path.count("/") + 2)]
        names = [part for each in parents for part in (each, each.rpartition("/")[2])]
        tried = names if pattern.startswith("**/") else parents
        if any(fnmatch(each, pattern.removeprefix("**/")) for each in tried):
            verdict = not line.startswith("!")
    return verdict


def test_the_base_is_slim_and_pinned_and_used_by_both_stages() -> None:
    base = only("ARG", ALL).partition("=")[2]
    assert re.fullmatch(r"docker\.io/library/python:3\.\d+-slim-[a-z]+", base)
    assert [each.words.split()[0] for each in ALL if each.name == "FROM"] == ["${PYTHON}"] * 2


def test_it_runs_as_a_user_that_is_not_root_and_known_by_number() -> None:
    user, group = only("USER", LAST).split(":")
    assert int(user) > 0
    assert int(group) > 0
    names = [each.name for each in LAST]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert "RUN" not in names  # what it consists of was made in the stage before, and belongs to root


def test_nothing_in_it_is_a_secret_or_fetched_unseen() -> None:
    assert {each.name for each in ALL} <= {
        *("ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD")
    }
    told = " ".join(each.words for each in ALL if each.name in ("ARG", "ENV", "RUN"))
    assert not re.search(r"(?i)secret|passw|token|_URL|curl|wget|https?:", told)


def test_signals_reach_it() -> None:
    assert json.loads(only("ENTRYPOINT", LAST)) == ["somactl"]  # no shell in between
    assert only("STOPSIGNAL", LAST) == "SIGTERM"
    command, *flags = json.loads(only("CMD", LAST))
    assert command in COMMANDS
    assert flags == []  # listens to loopback, until told otherwise


@pytest.mark.parametrize(
    "path", [".git/config", ".venv/bin/python", "tests/conftest.py", "somactl.db", ".env"]
)
def test_what_is_not_copied_does_not_even_reach_the_builder(path: str) -> None:
    assert ignored(path)


def test_the_builder_sees_all_that_is_copied() -> None:
    assert [name for name in copied() if ignored(name)] == []
    assert ignored("docs/.env")
    assert ignored("somactl/core/__pycache__/x.pyc")
    assert not ignored("somactl/core/envelope.py")
    assert not ignored("examples/data/digits.npz")


def test_what_it_builds_starts(tmp_path: Path) -> None:
    """Its RUN, without the network: the dependencies are those of this environment."""
    sources = tmp_path / "src"
    for name in copied():
        where = ROOT / name
        (sources / name).parent.mkdir(parents=True, exist_ok=True)
        if where.is_dir():
            shutil.copytree(where, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(where, sources / name)
    build = only("RUN", ALL)
    assert "venv --without-pip /opt/somactl " in build
    assert "pip --python /opt/somactl/bin/python install --no-cache-dir --compile '.[serve]'" in build
    bin_ = new_environment(tmp_path / "opt")
    pip(
        "--python",
        bin_ / "python",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--compile",
        ".",
        cwd=sources,
    )
    shutil.rmtree(sources)
    package = next((tmp_path / "opt").glob("lib/python3*/site-packages/somactl"))
    modules = set(package.rglob("*.py"))
    compiled = {path.parent.parent / f"{path.name.split('.')[0]}.py" for path in package.rglob("*.pyc")}
    assert modules
    assert modules <= compiled
    assert "Usage: somactl" in run(bin_ / "somactl", "--help", cwd=tmp_path)
    page = run(bin_ / "somactl", "explain", "serve", cwd=tmp_path)
    assert "`somactl serve` says" in page  # the documents are there

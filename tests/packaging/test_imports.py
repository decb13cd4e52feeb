"""What is imported is declared, what is declared is imported, and nothing heavy loads before its time."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEAVY = {"numpy", "scipy", "asyncio", "sqlite3", "typer", "rich", "msgspec"}

pytestmark = pytest.mark.source


def imported(pattern: str, without: str = "") -> set[str]:
    """The first names of all absolute imports in these files, wherever in a file they stand."""
    paths = [path for path in ROOT.glob(pattern) if without not in path.relative_to(ROOT).parts]
    return {name.split(".")[0] for path in paths for name in _imports(path)}


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("find_spec", "import_module")):
            yield from (
                a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)
            )


def declared(*extras: str) -> set[str]:
    requirements = [*PROJECT["dependencies"]]
    for extra in extras:
        requirements += PROJECT["optional-dependencies"][extra]
    return {_normal(re.split(r"[<>=~\[ ]", requirement)[0]) for requirement in requirements}


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def distributions(modules: set[str]) -> set[str]:
    """The distributions that bring these modules, those of the standard library and our own left out."""
    known = importlib.metadata.packages_distributions()
    return {_normal(d) for m in modules - set(sys.stdlib_module_names) for d in known.get(m, [])} - {
        "somactl"
    }


def test_somactl_imports_what_it_declares_and_declares_what_it_imports() -> None:
    used = imported("somactl/**/*.py", without="testing")
    assert distributions(used) == declared("distributed", "serve")


@pytest.mark.parametrize("pattern", ["somactl/testing/**/*.py", "tests/**/*.py", "docs/*.py", ".ci/*.py"])
def test_development_code_imports_only_what_is_declared(pattern: str) -> None:
    assert imported(pattern)
    assert distributions(imported(pattern)) - declared("test", "serve") == set()


@pytest.mark.parametrize("module", ["somactl", "somactl.errors", "somactl.package_data"])
def test_light_modules_stay_light(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert HEAVY & set(loaded) == set()


def test_one_parser_reads_addresses() -> None:
    """Those of the standard library drop line ends, take the last of two parameters, and raise on a port."""
    parsers = {"urlsplit", "urlparse", "parse_qs", "parse_qsl"}
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in ROOT.glob("somactl/**/*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in [getattr(node, "attr", getattr(node, "id", getattr(node, "name", None)))]
        if name in parsers
    ]
    assert found == []


def test_no_path_of_a_machine_is_in_the_sources() -> None:
    """Paths of a developer's machine have no place in a file that others read."""
    pattern = re.compile(r"(?<![\w/.])/(?:home|root|Users|work)/\w+")
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for folder in ("somactl", "docs", "RUNBOOKS", "examples", "benchmarks", "tests", ".ci", "sql", "lua")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".md", ".sql", ".json", ".lua", ".sh", ""} and path.is_file()
        for match in [pattern.search(path.read_text(encoding="utf-8"))]
        if match
    ]
    assert found == []


def test_the_project_says_where_to_turn() -> None:
    assert {"Documentation", "Source", "Issues", "Changelog", "Security"} <= set(PROJECT["urls"])
    for page in ("CONTRIBUTING.md", "SECURITY.md"):
        assert (ROOT / page).read_text(encoding="utf-8").startswith("# ")

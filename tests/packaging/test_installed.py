"""The wheel works with the sources out of the way, and an editable install never reads an old copy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGED = [
    "somactl",
    "sql",
    "lua",
    "schemas",
    "RUNBOOKS",
    "docs",
    "examples",
    "pyproject.toml",
    "README.md",
    "LICENSE",
]

pytestmark = pytest.mark.source


def run(*command: str | Path, cwd: Path) -> str:
    """What the command prints on stdout; its failure is the test's."""
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, (
        f"{command} ended with {result.returncode}:\n{result.stdout}{result.stderr}"
    )
    return result.stdout


def pip(*arguments: str | Path, cwd: Path) -> None:
    run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments, cwd=cwd)


def new_environment(folder: Path) -> Path:
    """A virtual environment that has somactl's dependencies, but no somactl: its `bin` folder.

    The dependencies are this environment's own, by a plain path entry, which does not follow the entry of
    an editable somactl in it.
    """
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    packages = next(folder.glob("lib/python3*/site-packages"))
    packages.joinpath("dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def copy_of_the_sources(folder: Path) -> Path:
    folder.mkdir()
    for name in PACKAGED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    sources = copy_of_the_sources(folder / "sources")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, sources, cwd=folder)
    shutil.rmtree(sources)
    return next(folder.glob("somactl-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment into which the wheel was installed."""
    bin_ = new_environment(tmp_path_factory.mktemp("installed") / "venv")
    pip("--python", bin_ / "python", "install", "--no-deps", "--no-index", wheel, cwd=wheel.parent)
    return bin_


def locate(bin_: Path, parts: tuple[str, ...], cwd: Path) -> Path:
    code = f"from somactl.package_data import data_file; print(data_file(*{parts!r}))"
    return Path(run(bin_ / "python", "-c", code, cwd=cwd).strip())


def packaged_files() -> list[str]:
    folders = ["sql", "lua", "schemas", "RUNBOOKS", "docs", "examples/data"]
    return sorted(
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    )


def test_the_wheel_holds_every_data_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert [name for name in packaged_files() if f"somactl/{name}" not in names] == []
    assert {"somactl/py.typed", "somactl/cli/__init__.py"} <= names
    assert {f"somactl/cli/shells/somactl.{shell}" for shell in ("bash", "zsh", "fish")} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"somactl"}


def test_the_wheel_finds_its_data_files_without_the_sources(installed: Path, tmp_path: Path) -> None:
    for name in ("sql", "lua", "schemas", "RUNBOOKS", "docs"):
        found = locate(installed, (name,), tmp_path)
        assert found.is_dir()
        assert found.is_relative_to(installed.parent.resolve())


def test_the_wheel_does_the_main_job(installed: Path, tmp_path: Path) -> None:
    somactl = installed / "somactl"
    np.save(tmp_path / "rho.npy", np.diag([0.5, 0.25, 0.25]))
    assert run(somactl, "--version", cwd=tmp_path).split()[-1] == installed_version(installed, tmp_path)
    run(somactl, "init", cwd=tmp_path)
    commit = json.loads(run(somactl, "commit", "digit=rho.npy", "--output", "json", cwd=tmp_path))
    assert commit["version"] == 1
    assert commit["items"][0]["verdict"]["status"] == "valid"
    run(somactl, "get", "digit", "--to", "again.env", cwd=tmp_path)
    code = "import somactl; print(somactl.deserialize_matrix(open('again.env', 'rb').read()).array.tolist())"
    again = json.loads(run(installed / "python", "-c", code, cwd=tmp_path))
    assert again == np.load(tmp_path / "rho.npy").tolist()
    audit = json.loads(run(somactl, "verify-psd", "--all", "--output", "json", cwd=tmp_path))
    assert (audit["checked"], audit["valid"], audit["complete"]) == (1, 1, True)


def test_the_wheel_gives_its_demo(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "somactl", "demo", cwd=tmp_path)


def installed_version(bin_: Path, cwd: Path) -> str:
    code = "import importlib.metadata as m, somactl; assert m.version('somactl') == somactl.__version__; "
    return run(bin_ / "python", "-c", code + "print(somactl.__version__)", cwd=cwd).strip()


def test_an_editable_install_reads_the_sources_and_keeps_no_copy(tmp_path: Path) -> None:
    sources = copy_of_the_sources(tmp_path / "sources")
    bin_ = new_environment(tmp_path / "venv")
    pip(
        "--python", bin_ / "python", "install", "--no-deps", "--no-build-isolation", "--editable", sources,
        cwd=tmp_path,
    )  # fmt: skip
    copies = [path for path in (tmp_path / "venv").rglob("site-packages/somactl/**/*") if path.is_file()]
    assert copies == []
    probe = sources / "sql" / "probe.sql"
    for text in ("first", "second"):
        probe.write_text(text)
        assert locate(bin_, ("sql", "probe.sql"), tmp_path).read_text() == text
    probe.unlink()
    code = "from somactl.package_data import data_file; data_file('sql', 'probe.sql')"
    gone = subprocess.run([bin_ / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert gone.returncode == 1
    assert "FileNotFoundError" in gone.stderr


def test_a_file_in_the_package_wins_over_one_beside_it(tmp_path: Path) -> None:
    """As in a wheel whose site-packages happens to hold another project's `sql` folder."""
    package = tmp_path / "somactl"
    package.mkdir()
    for name in ("__init__.py", "package_data.py"):
        shutil.copy(ROOT / "somactl" / name, package / name)
    for place, text in ((package, "inside"), (tmp_path, "beside")):
        (place / "sql").mkdir()
        (place / "sql" / "probe.sql").write_text(text)
    code = "from somactl.package_data import data_file; print(data_file('sql', 'probe.sql').read_text())"
    assert run(sys.executable, "-c", code, cwd=tmp_path).strip() == "inside"

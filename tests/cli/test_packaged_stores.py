"""A store of another package, really installed, opened by its URL; and packages that are broken."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from somactl.address.address import GROUP
from tests.cli.conftest import Result, Shell, density

ROOT = Path(__file__).resolve().parents[1]
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the package was installed; no index is asked."""
    folder = tmp_path_factory.mktemp("packages")
    sources = folder / "sources"
    shutil.copytree(ROOT / "data" / "journaled_store", sources)
    options = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation"]
    target = folder / "installed"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", target, sources], check=True
    )
    return target


@pytest.fixture
def run(shell: Shell, installed: Path) -> Run:
    """`somactl` in a process that sees the package, with a store at a URL of that scheme."""

    def run(*words: str, scheme: str = "journaled", url: str = "", paths: tuple[Path, ...] = ()) -> Result:
        url = url or f"{scheme}://{shell.folder}/of%20others.db"
        path = ":".join(map(str, (installed, *paths)))
        return shell(*words, env={"SOMACTL_STORE": url, "PYTHONPATH": path}, bufsize=-1)

    return run


def test_a_matrix_passes_through_a_store_of_another_package(shell: Shell, run: Run) -> None:
    rho = density(4)
    committed = run("commit", f"a={shell.save('a.npy', rho)}", "-n", "lab", "-o", "json")
    assert (committed.code, committed.json["store"]) == (0, "journaled"), committed.err
    got = run("get", "a", "-n", "lab", "--as", "npy", "--to", "out.npy", "-o", "json")
    assert (got.code, got.json["version"]) == (0, 1), got.err
    assert np.array_equal(np.load(shell.folder / "out.npy"), rho)
    assert (shell.folder / "of others.db.journal").read_text() == "lab 1\n"
    assert run("verify-psd", "--all", "-n", "lab").code == 0
    assert "of%20others.db" in run("doctor", "-n", "lab").text + run("config").text


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        ("broken", "ModuleNotFoundError: No module named 'journaled_store_that_is_missing'"),
        ("failing", "RuntimeError: no driver for failing://"),
        ("hollow", "gives a object, which lacks clock, close, commit_matrix_update, "),
    ],
)
def test_a_broken_package_is_one_error_that_names_it(run: Run, scheme: str, said: str) -> None:
    failed = run("ls", "-o", "json", scheme=scheme)
    assert failed.code == 10, failed.err
    assert said in failed.error["message"]
    assert "of the package journaled-store" in failed.error["message"]
    assert "uninstall journaled-store" in failed.error["hint"]
    assert "Traceback" not in failed.err


def test_what_a_package_says_of_a_url_with_a_password_is_not_shown(run: Run) -> None:
    failed = run("ls", url="failing://user:se-cret@host/x")
    assert failed.code == 10
    assert "RuntimeError" in failed.err
    assert "se-cret" not in failed.err
    misplaced = run("get", "journaled://user:se-cret@host/x")
    assert (misplaced.code, "se-cret" in misplaced.err) == (10, False)
    flagged = run("ls", "--store", "journaled://user:se-cret@host/x")
    assert (flagged.code, "se-cret" in flagged.err) == (10, False)


def test_two_packages_for_one_scheme_are_refused(run: Run, tmp_path: Path, installed: Path) -> None:
    other = tmp_path / "other" / "other_store-1.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other-store\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text(f"[{GROUP}]\njournaled = other_store:Server\n")
    failed = run("ls", paths=(other.parent,))
    assert failed.code == 10
    assert "journaled-store and other-store each open journaled:// stores" in failed.err


def test_an_unknown_scheme_names_the_known_ones(run: Run) -> None:
    failed = run("ls", url="jurnaled:///x.db")
    assert failed.code == 10
    for known in ("sqlite://", "postgresql://", "redis://", "journaled://"):
        assert known in failed.err

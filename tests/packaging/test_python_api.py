"""The Python API: what it exports, that type checkers know it, and that a matrix is an array to numpy."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import somactl
from somactl.core.envelope import Matrix, deserialize_matrix, encode
from somactl.errors import ConfigurationError, InvalidName, KeyNotFound, ReadOnlyStore, UsageError

ROOT = Path(__file__).resolve().parents[2]
LOADED = sorted(set(somactl.__all__) - {"__version__"})
PROMISED = {
    "open_store",
    "read_matrix",
    "check",
    "Policy",
    "Tolerances",
    "Verdict",
    "serialize_matrix",
    "deserialize_matrix",
    "commit_matrix_update",
    "migrate_json_payload_to_matrix",
}


def test_what_is_promised_is_exported() -> None:
    assert set(LOADED) >= PROMISED
    for name in LOADED:
        assert getattr(somactl, name).__name__ == name
        assert name in dir(somactl)
    with pytest.raises(AttributeError, match="no attribute 'chek'"):
        somactl.chek  # type: ignore[attr-defined]  # noqa: B018


def test_type_checkers_and_the_interpreter_see_the_same_names() -> None:
    """Imported for type checkers, listed in __all__, and loaded by __getattr__ from the same modules."""
    tree = ast.parse(Path(str(somactl.__file__)).read_text(encoding="utf-8"))
    typed = {
        alias.name: node.module
        for statement in tree.body
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"
        for node in statement.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(typed) == LOADED
    assert {name: home for home, names in somactl._HOMES.items() for name in names} == typed


RIGHT = """
    import numpy as np
    import somactl

    async def main() -> float:
        policy = somactl.Policy(tolerances=somactl.Tolerances(psd=1e-9))
        async with somactl.open_store("sqlite:///a.db", namespace="n", cache=None) as store:
            receipt = await somactl.commit_matrix_update(store, {"a": np.eye(2) / 2}, policy=policy)
            matrix = await somactl.read_matrix(store, "a", version=receipt.version)
        verdict: somactl.Verdict = somactl.check(matrix)
        return float(np.asarray(matrix)[0, 0]) if verdict.valid else 0.0
"""
NAMES = {
    "somactl.chek(1)": "chek",
    "somactl.Tolerance()": "Tolerance",
    "from somactl import opn_store": "opn",
}
TYPES = {
    "somactl.Tolerances(psd='small')": "incompatible type",
    "somactl.open_store(1)": "incompatible type",
    "somactl.open_store('sqlite:///a.db').read('a')": "has no attribute",
    "somactl.check(1).valied": "has no attribute",
    "somactl.deserialize_matrix(b'').matrix": "has no attribute",
    "somactl.Policy(clmap=True)": "Unexpected keyword",
}


def complaints(code: str, folder: Path, *options: str) -> list[str]:
    """What mypy says of each line of `code`, in a file of its own beside the project's settings."""
    path = folder / "user.py"
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", os.devnull, "--no-error-summary", *options, path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.source
def test_a_wrong_name_fails_type_checking(tmp_path: Path) -> None:
    """Only `somactl/__init__.py` is followed, which takes a second; the night's test follows all."""
    found = complaints(
        RIGHT + "\n    import somactl\n    " + "\n    ".join(NAMES),
        tmp_path,
        "--follow-imports=skip",
        "--ignore-missing-imports",
        f"--cache-dir={tmp_path}",
        str(ROOT / "somactl" / "__init__.py"),
    )
    assert len(found) == len(NAMES), found
    for name, line in zip(NAMES.values(), found, strict=True):
        assert f'"{name}' in line
        assert "has no attribute" in line


@pytest.mark.source
@pytest.mark.skipif("SOMACTL_TEST_NIGHT" not in os.environ, reason="reads all that somactl imports")
def test_a_wrong_type_fails_type_checking(tmp_path: Path) -> None:
    assert complaints(RIGHT, tmp_path, "--strict") == []
    found = complaints("import somactl\n" + "\n".join(TYPES), tmp_path)
    assert len(found) == len(TYPES), found
    for expected, line in zip(TYPES.values(), found, strict=True):
        assert expected in line


# ---- a matrix is an array


@pytest.mark.parametrize("layout", ["full", "hermitian", "factor"])
@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32", "complex64"])
def test_numpy_takes_a_matrix_for_its_array(dtype: str, layout: str) -> None:
    given = np.array([[0.5, 0.25], [0.25, 0.5]]).astype(dtype)
    matrix = deserialize_matrix(encode(given, key="k", layout=layout).data)
    array = np.asarray(matrix)
    assert array is matrix.array
    assert np.shares_memory(np.asarray(matrix, dtype=dtype), array)
    assert np.array_equal(array, given @ given.conj().T if layout == "factor" else given)
    wide = np.asarray(matrix, dtype="complex128")
    assert wide.dtype == "complex128"
    assert np.array_equal(wide, array)
    copied = np.array(matrix)
    assert not np.shares_memory(copied, array)
    copied[0, 0] = 2.0
    assert matrix.array[0, 0] != 2.0
    assert np.trace(matrix) == np.trace(array)
    assert (np.ones((2, 2)) @ np.asarray(matrix)).shape == (2, 2)


def test_the_array_protocol_of_numpy_2() -> None:
    matrix = Matrix(np.eye(2))
    assert matrix.__array__() is matrix.values
    assert matrix.__array__(copy=False) is matrix.values
    assert matrix.__array__(np.dtype("float64"), copy=False) is matrix.values
    assert matrix.__array__(copy=True) is not matrix.values
    assert matrix.__array__(np.float32).dtype == "float32"
    with pytest.raises(ValueError, match="by a copy alone"):
        matrix.__array__(np.float32, copy=False)


def test_a_decoded_matrix_is_checked_as_its_array() -> None:
    matrix = deserialize_matrix(encode(np.diag([0.25, 0.75]), key="k").data)
    assert somactl.check(matrix) == somactl.check(matrix.array)


# ---- a store


async def test_a_store_is_opened_by_its_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMACTL_STORE", "redis://elsewhere:1/0")  # neither read nor wanted
    monkeypatch.setenv("SOMACTL_NAMESPACE", "elsewhere")
    url = f"sqlite:///{tmp_path}/a.db"
    rho = np.array([[0.5, 0.5j], [-0.5j, 0.5]])
    async with somactl.open_store(url, namespace="team") as store:
        first = await somactl.commit_matrix_update(store, {"a": rho})
        await somactl.commit_matrix_update(store, {"a": np.eye(2) / 2})
        assert store.namespace == "team"
    async with somactl.open_store(url, namespace="team", read_only=True) as store:
        assert np.array_equal(np.asarray(await somactl.read_matrix(store, "a")), np.eye(2) / 2)
        old = await somactl.read_matrix(store, "a", version=first.version)
        assert np.array_equal(old, rho)
        assert old.header is not None
        assert (old.header.key, old.header.namespace) == ("a", "team")
        with pytest.raises(KeyNotFound):
            await somactl.read_matrix(store, "b")
        with pytest.raises(InvalidName):
            await somactl.read_matrix(store, "")
        with pytest.raises(ReadOnlyStore):
            await somactl.commit_matrix_update(store, {"a": rho})


@pytest.mark.parametrize("url", ["mysql://host/db", "nonsense", "sqlite://host/a.db", ""])
async def test_a_url_that_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        async with somactl.open_store(url):
            pass


@pytest.mark.parametrize("given", [{"url": None}, {"url": 1}, {"namespace": None}, {"cache": 6379}])
async def test_what_is_no_text_is_no_address(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(given))):
        async with somactl.open_store(**given):
            pass


async def test_an_error_on_opening_carries_its_hint_as_a_note() -> None:
    with pytest.raises(InvalidName) as raised:
        async with somactl.open_store("sqlite:///a.db", namespace="no such name"):
            pass
    assert raised.value.__notes__ == ["hint: rename it, or leave `namespace` out to use 'default'"]

"""Run the command line as an operator or a pipeline would, mostly by forks of one that is imported once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np
import pytest

from servers.prometheus import Pushgateway
from support.forkserver import ForkServer

SOMACTL = str(Path(sys.executable).with_name("somactl"))
"""The real executable: for start-up, limits of a process, and descriptors beyond the standard streams."""


@dataclass(frozen=True)
class Result:
    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """The objects of ndjson output; the last one is the report."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> Any:
        """The object a failure prints as the last line of stderr in the JSON modes."""
        return json.loads(self.err.splitlines()[-1])


def environment() -> dict[str, str]:
    """The caller's environment without anything that would steer somactl.

    One BLAS thread: the tests run side by side, and the spinning threads of several pools on the same cores
    slow each other a hundredfold. And patience with a cache: that a machine is busy is no fault of it.
    """
    steering = ("SOMACTL_", "SFM_", "POSTGRES_URL", "REDIS_URL", "NO_COLOR")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(steering)}
    return clean | {"OPENBLAS_NUM_THREADS": "1", "SFM_RHO_READ_TIMEOUT_MS": "2000"}


def _answered(code: int, out: bytes, err: bytes) -> Result:
    return Result(code, out, err.decode())


FORKED = ForkServer(environment())


def with_somactl(env: Mapping[str, str]) -> dict[str, str]:
    """That environment, in which shells find a `somactl` that is forked."""
    return {**env, "PATH": f"{FORKED.folder}{os.pathsep}{os.environ['PATH']}"}


class Shell:
    """An empty working directory with somactl in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self, *words: str, stdin: bytes = b"", env: Mapping[str, str] | None = None, **options: Any
    ) -> Result:
        env = environment() | dict(env or {})
        if not options:
            return _answered(*FORKED.run(words, cwd=self.folder, env=env, stdin=stdin))
        done = subprocess.run(
            [SOMACTL, *words],
            cwd=self.folder,
            env=env,
            input=stdin,
            capture_output=True,
            timeout=120,
            check=False,
            **options,
        )
        return _answered(done.returncode, done.stdout, done.stderr)

    def begin(self, *words: str, env: Mapping[str, str] | None = None, **options: Any) -> Popen[bytes]:
        """A run that goes on, to be sent signals or fed; what it prints comes through pipes by default."""
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return Popen(
            [FORKED.program, *words], cwd=self.folder, env=environment() | dict(env or {}), **streams
        )

    def line(self, line: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a line, or several, in a new bash."""
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-c", line],
            cwd=self.folder,
            env=with_somactl(environment() | dict(env or {})),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def ok(self, *words: str, **options: Any) -> Result:
        result = self(*words, **options)
        assert result.code == 0, result.err
        return result

    def save(self, name: str, array: Any) -> str:
        np.save(self.folder / name, array)
        return name

    def write(self, name: str, content: bytes | str) -> str:
        (self.folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    def commit(self, key: str, rho: np.ndarray, *words: str) -> Any:
        """Commit one matrix; the report."""
        file = self.save("value.npy", rho)
        return self.ok("commit", f"{key}={file}", "--output", "json", *words).json

    def is_empty(self) -> bool:
        """Whether nothing at all is in the default store."""
        result = self("ls", "--output", "json")
        return result.code == 15 or result.json["total"] == 0


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def jobs(shell: Shell, pushgateway: Pushgateway) -> Any:
    """A shell whose jobs push to a gateway that is empty: see push_jobs.py."""
    from tests.cli.push_jobs import Jobs

    return Jobs(shell, pushgateway)


def density(n: int, rank: int | None = None, *, seed: int = 0, imaginary: bool = False) -> np.ndarray:
    """A random density matrix, Hermitian bit for bit."""
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((n, rank or n))
    if imaginary:
        factor = factor + 1j * rng.standard_normal(factor.shape)
    rho = factor @ factor.conj().T
    rho /= np.trace(rho).real
    rho = np.tril(rho, -1)
    rho = rho + rho.conj().T
    np.fill_diagonal(rho, (np.abs(factor) ** 2).sum(axis=1))
    np.fill_diagonal(rho, rho.diagonal() / (np.abs(factor) ** 2).sum())
    return rho


def with_smallest_eigenvalue(rho: np.ndarray, value: float) -> np.ndarray:
    """rho, moved so that its smallest eigenvalue is `value` and its trace stays 1."""
    values, vectors = np.linalg.eigh(rho)
    values[0] = value
    values[-1] += 1.0 - values.sum()
    moved = (vectors * values) @ vectors.conj().T
    return (moved + moved.conj().T) / 2

"""What it costs to start the installed command, against an interpreter that starts and does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from matrices import density
from measure import BIN, Effort, Row, command, interleave, ratio

SOMACTL = str(BIN / "somactl")


def store_environment(folder: str) -> dict[str, str]:
    """The environment of a command on a store of its own, free of the caller's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SOMACTL_", "SFM_"))}
    return {**kept, "SOMACTL_STORE": f"sqlite:///{folder}/bench.db"}


def startup(effort: Effort) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        env = store_environment(folder)
        path = Path(folder) / "rho.npy"
        np.save(path, density(8))
        keys = [f"bench:{number}={path}" for number in range(5)]
        subprocess.run([SOMACTL, "commit", *keys], env=env, check=True, capture_output=True)
        bare, version, ls = interleave(
            [
                command("python -c pass", [sys.executable, "-c", "pass"], env),
                command("somactl --version", [SOMACTL, "--version"], env),
                command("somactl ls", [SOMACTL, "ls"], env),
            ],
            Effort(effort.seconds * 2, effort.least * 3, 60),
        )
    return [
        ratio(
            "startup-version", "`somactl --version` vs `python -c pass`", version, bare, sense="<=", goal=3.0
        ),
        ratio("startup-ls", "`somactl ls` on SQLite vs `python -c pass`", ls, bare, sense="<=", goal=12.0),
    ]

"""Peak memory of `somactl verify-psd` on one large matrix in SQLite, above what its imports cost."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from matrices import density
from measure import Effort, Row, peak_bytes
from startup import SOMACTL, store_environment

N = 4096
LAYOUTS = ("full", "hermitian")
RUNS = 3

#: imports the modules named on the command line, and LAPACK by the same way round as the command
_IMPORTER = """
import contextlib, importlib, json, sys
for name in json.load(open(sys.argv[1])):
    with contextlib.suppress(Exception):
        importlib.import_module(name)
from somactl.core.lapack import flapack
flapack()
"""


def _imports(env: dict[str, str], key: str) -> list[str]:
    """The modules that `verify-psd` imports, in the order in which it does."""
    argv = [sys.executable, "-X", "importtime", SOMACTL, "verify-psd", key]
    done = subprocess.run(argv, env=env, check=True, capture_output=True, text=True)
    names = re.findall(r"^import time:\s+\d+ \|\s+\d+ \|\s+(\S+)$", done.stderr, re.MULTILINE)
    if "numpy" not in names:
        raise RuntimeError("verify-psd imported no numpy: the baseline would be wrong")
    return names


def verify_psd(_effort: Effort) -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        env = store_environment(folder)
        rho = density(N)
        nbytes = rho.nbytes
        path = Path(folder) / "rho.npy"
        np.save(path, rho)
        del rho
        for layout in LAYOUTS:
            commit = [SOMACTL, "commit", f"{layout}={path}", "--layout", layout, "--output", "json"]
            done = subprocess.run(commit, env=env, check=True, capture_output=True, text=True)
            if f'"layout":"{layout}"' not in done.stdout.replace(" ", ""):
                raise RuntimeError(f"not stored in layout {layout}: {done.stdout}")
        modules = Path(folder) / "modules.json"
        modules.write_text(json.dumps(_imports(env, LAYOUTS[0])))
        importer = [sys.executable, "-c", _IMPORTER, str(modules)]
        for layout in LAYOUTS:
            peaks, bases = [], []
            for _ in range(RUNS):
                bases.append(peak_bytes(importer, env))
                peaks.append(peak_bytes([SOMACTL, "verify-psd", layout], env))
            each = [(peak - base) / nbytes for peak, base in zip(peaks, bases, strict=True)]
            rows.append(
                Row(
                    f"memory-{layout}",
                    f"peak memory of `verify-psd` above the imports / full bytes, n = {N}, SQLite, {layout}",
                    statistics.median(each),
                    min(each),
                    max(each),
                    "<=",
                    2.5,
                    digits=2,
                    detail=f"peak {statistics.median(peaks) / 2**20:.0f} MiB, "
                    f"imports {statistics.median(bases) / 2**20:.0f} MiB",
                )
            )
    return rows

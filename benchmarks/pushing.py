"""What `--push` adds to a job, beside a bare `curl` of the same text and the import of prometheus_client."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from matrices import density
from measure import Effort, Row, command, interleave
from startup import SOMACTL, store_environment
from stores import pushgateway

CURL, IMPORT = 1.3, 1.5
"""So many times each may it be."""


def push_cost(effort: Effort) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder, pushgateway() as url:
        env = {**store_environment(folder), "SOMACTL_PUSH_GATEWAY": url}
        path = Path(folder) / "rho.npy"
        np.save(path, density(8))
        subprocess.run([SOMACTL, "commit", f"a={path}"], env=env, check=True, capture_output=True)
        job = [SOMACTL, "verify-psd", "--all", "--jobs", "1"]
        text = Path(folder) / "text"
        subprocess.run([*job, "--textfile", str(text)], env=env, check=True, capture_output=True)
        text.write_bytes(_without_group(text.read_bytes()))
        curl = ["curl", "--silent", "--show-error", "--fail", "--data-binary", f"@{text}"]
        sides = interleave(
            [
                command("verify-psd", job, env),
                command("verify-psd --push", [*job, "--push"], env),
                command("curl", [*curl, f"{url}/metrics/job/curl/namespace/default"], env),
                command("python -c pass", [sys.executable, "-c", "pass"], env),
                command("import prometheus_client", [sys.executable, "-c", "import prometheus_client"], env),
            ],
            Effort(effort.seconds * 3, effort.least * 3, 60),
        )
    plain, pushed, curled, bare, imported = sides
    rounds = zip(*(side.times for side in sides), strict=True)
    each = [(b - a) / (CURL * c + IMPORT * (e - d)) for a, b, c, d, e in rounds]
    figure = (pushed.median - plain.median) / (
        CURL * curled.median + IMPORT * (imported.median - bare.median)
    )
    return [
        Row(
            "push-cost",
            f"what `--push` adds vs {CURL} x `curl` + {IMPORT} x `import prometheus_client`",
            figure,
            min(each),
            max(each),
            "<=",
            1.0,
            digits=2,
            seconds={side.name: statistics.median(side.times) for side in sides},
            threads={side.name: side.threads for side in sides},
        )
    ]


def _without_group(text: bytes) -> bytes:
    """What is pushed of it: the labels of the group stand in the URL."""
    return (
        text.replace(b'job="verify-psd",', b"")
        .replace(b'{namespace="default"}', b"")
        .replace(b'namespace="default",', b"")
        .replace(b',namespace="default"', b"")
    )

"""Runs inside the peers' virtual environment: times one peer's own check for each JSON line on stdin.

    {"op": "versions"}                                     -> {"qutip": "5.3.1", ...}
    {"op": "prepare", "n": 1024, "complex": false}         -> {}
    {"op": "run", "peer": "qutip", "threads": 2}           -> {"seconds": 0.7, "accepted": true}

The peer's object is built outside the timing, so that converting the array is not held against it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import qutip  # type: ignore[import-not-found]
from matrices import density
from measure import settle
from qiskit.quantum_info import DensityMatrix  # type: ignore[import-not-found]
from threadpoolctl import threadpool_limits
from toqito.matrix_props import is_density  # type: ignore[import-not-found]

PSD_TOLERANCE = 1e-8


def _qutip(rho: Any) -> bool:
    return bool(rho.isherm and rho.eigenenergies().min() >= -PSD_TOLERANCE)


def _qiskit(rho: Any) -> bool:
    return bool(rho.is_valid())


#: peer -> (build its object from the array, its own check)
PEERS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], bool]]] = {
    "qutip": (qutip.Qobj, _qutip),
    "qiskit": (DensityMatrix, _qiskit),
    "toqito": (lambda array: array, is_density),
}


def run(array: Any, peer: str, threads: int) -> dict[str, Any]:
    build, check = PEERS[peer]
    with threadpool_limits(limits=threads):
        subject = build(array)  # anew each time: QuTiP remembers the answer of isherm
        settle()
        start = time.perf_counter()
        accepted = check(subject)
        return {"seconds": time.perf_counter() - start, "accepted": accepted}


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the replies
    array: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        reply: dict[str, Any] = {}
        if request["op"] == "versions":
            reply = {name: importlib.metadata.version(name) for name in (*PEERS, "numpy")}
        elif request["op"] == "prepare":
            array = density(request["n"], complex_=request["complex"])
        else:
            reply = run(array, request["peer"], request["threads"])
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()

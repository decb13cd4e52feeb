"""Our certified check against the checks of QuTiP, Qiskit and toqito, each at its current version.

The peers live in a virtual environment of their own (`.bench/peers`), made here on first use, and run in one
process of it. Requests and replies pass through pipes, one JSON line each, so that both sides take turns.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import venv
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from matrices import density
from measure import Effort, Row, Side, interleave, local, ratio

from somactl.core.invariants import check

HERE = Path(__file__).resolve().parent
HOME = HERE.parent / ".bench" / "peers"
REQUIREMENTS = HERE / "peers.txt"
GOALS = {"qutip": ("QuTiP", 25.0), "qiskit": ("Qiskit", 30.0), "toqito": ("toqito", 18.0)}
SPIN_SECONDS = 0.25
"""So long, with room to spare, do the threads of a peer's BLAS spin after a call, and would slow ours."""
CALLS = {
    "qutip": "`isherm`, `eigenenergies().min()`",
    "qiskit": "`DensityMatrix.is_valid`",
    "toqito": "`is_density`",
}


def installed() -> Path:
    """The interpreter of the peers' environment, made and filled if need be."""
    python = HOME / "bin" / "python"
    stamp = HOME / "installed.txt"
    wanted = REQUIREMENTS.read_text()
    if not (python.exists() and stamp.exists() and stamp.read_text() == wanted):
        print("installing the peers into .bench/peers ...", file=sys.stderr)
        venv.create(HOME, with_pip=True, clear=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--requirement", REQUIREMENTS],
            check=True,
            stdout=sys.stderr,
        )
        stamp.write_text(wanted)
    return python


class Peers:
    """The process in which the peers run."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [installed(), HERE / "peers_worker.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(timeout=60)

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peers' process ended while it was asked {request}")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def side(self, peer: str) -> Side:
        def seconds(threads: int) -> float:
            reply = self.ask(op="run", peer=peer, threads=threads)
            if not reply["accepted"]:
                raise RuntimeError(f"{peer} refused a density matrix")
            time.sleep(SPIN_SECONDS)
            return float(reply["seconds"])

        return Side(GOALS[peer][0], seconds)


def compare(n: int, effort: Effort, *, complex_: bool = False) -> list[Row]:
    """All three peers and ourselves in turn on one matrix; the goals are set for float64 input."""
    rho = density(n, complex_=complex_)
    assert check(rho).valid
    with Peers() as peers:
        peers.ask(op="prepare", n=n, complex=complex_)
        sides = [local("somactl", lambda _: check(rho)), *(peers.side(peer) for peer in GOALS)]
        ours, *theirs = interleave(sides, effort)
    suffix = "-complex" if complex_ else ""
    kind = "complex128" if complex_ else "float64"
    return [
        ratio(
            f"{peer}-{n}{suffix}",
            f"verify vs {title} ({CALLS[peer]}), n = {n}, {kind}",
            samples,
            ours,
            sense="" if complex_ else ">=",
            goal=None if complex_ else goal,
        )
        for (peer, (title, goal)), samples in zip(GOALS.items(), theirs, strict=True)
    ]


def versions() -> dict[str, str]:
    with Peers() as peers:
        return {name: str(version) for name, version in peers.ask(op="versions").items()}

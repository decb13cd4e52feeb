"""The certified check against eigenvalues, the bare factorisation, and itself on short cuts."""

from __future__ import annotations

from typing import Any

import numpy as np
from matrices import density
from measure import Effort, Row, Samples, Side, interleave, local, ratio
from numpy.typing import NDArray

from somactl.core import certificate, envelope, framing
from somactl.core.invariants import check, check_packed
from somactl.core.lapack import flapack
from somactl.core.verification import check_envelope

EIGEN_GOALS = {1024: 5.0, 2048: 6.0, 4096: 10.0}
CEILING_DISTANCE = 1.15


def _check(rho: NDArray[Any], name: str = "check") -> Side:
    verdict = check(rho)
    if not (verdict.valid and verdict.rigour == "proved"):
        raise RuntimeError(f"no proof, hence nothing to measure: {verdict}")
    return local(name, lambda _: check(rho))


def _potrf(rho: NDArray[Any]) -> tuple[Side, Side]:
    """The factorisation alone: in place on a warm buffer, and as a plain call that leaves rho intact."""
    dpotrf = flapack().dpotrf
    scratch = np.empty_like(rho)

    def refill() -> NDArray[Any]:
        np.copyto(scratch, rho)
        return scratch

    def factor(matrix: NDArray[Any], overwrite: int) -> None:
        _, info = dpotrf(matrix.T, lower=1, clean=0, overwrite_a=overwrite)
        assert info == 0

    return (
        local("dpotrf", lambda buffer: factor(buffer, 1), setup=refill),
        local("dpotrf, copying", lambda _: factor(rho, 0)),
    )


def full_rank(n: int, effort: Effort) -> list[Row]:
    """eigvalsh, dpotrf (twice) and ours in turn; at n = 4096 a matrix product too."""
    rho = density(n)
    out = np.empty_like(rho)
    other = rho + 1.0
    sides = [local("eigvalsh", lambda _: np.linalg.eigvalsh(rho)), *_potrf(rho), _check(rho)]
    if n == 4096:
        sides.append(local("dgemm", lambda _: np.matmul(rho, other, out=out)))
    eigen, potrf, copying, ours, *product = interleave(sides, effort)
    rows = [
        ratio(
            f"certify-{n}",
            f"certified verify vs `eigvalsh`, n = {n}",
            eigen,
            ours,
            sense=">=",
            goal=EIGEN_GOALS[n],
        ),
        ratio(f"ceiling-{n}", f"its ceiling: bare `dpotrf` in place vs `eigvalsh`, n = {n}", eigen, potrf),
        ratio(
            f"distance-{n}",
            f"certified verify / bare `dpotrf` in place, n = {n}",
            ours,
            potrf,
            sense="<=",
            goal=CEILING_DISTANCE,
            digits=2,
        ),
        ratio(
            f"copying-{n}",
            f"certified verify / `dpotrf` that leaves its input intact, as ours does, n = {n}",
            ours,
            copying,
            digits=2,
        ),
    ]
    rows += [_flops(ours, gemm) for gemm in product]
    return rows


def _flops(ours: Samples, gemm: Samples) -> Row:
    """2 n^3 flops took the product its time; n^3/3 flops at that rate take a sixth of it."""
    return ratio(
        "flops-4096",
        "certified verify / time of n^3/3 flops at the measured dgemm rate, n = 4096",
        ours,
        gemm,
        sense="<=",
        goal=1.3,
        scale=6.0,
        digits=2,
    )


def rank_eighth(effort: Effort) -> list[Row]:
    n = 2048
    rho = density(n, n // 8)
    eigen, ours = interleave([local("eigvalsh", lambda _: np.linalg.eigvalsh(rho)), _check(rho)], effort)
    return [
        ratio("rank-eighth", f"rank n/8 vs `eigvalsh`, n = {n}", eigen, ours, sense=">=", goal=13.0),
    ]


def rank_sixtyfourth(effort: Effort) -> list[Row]:
    """The same matrix, with the early stop and without (as if it were too small for it)."""
    n = 2048
    rho = density(n, n // 64)
    usual = certificate.FROM_ORDER

    def full(_: object) -> None:
        certificate.FROM_ORDER = n + 1
        try:
            check(rho)
        finally:
            certificate.FROM_ORDER = usual

    ours, whole = interleave([_check(rho), local("without early stop", full)], effort)
    return [
        ratio(
            "rank-sixtyfourth",
            f"rank n/64 vs our own full certificate of the same matrix, n = {n}",
            whole,
            ours,
            sense=">=",
            goal=4.0,
        )
    ]


def packed_bytes(effort: Effort) -> list[Row]:
    """From the packed payload vs from the array; and, for an audit, from envelope bytes of either layout."""
    n = 2048
    rho = density(n)
    data = {
        layout: envelope.serialize_matrix(rho, key="bench", layout=layout) for layout in ("hermitian", "full")
    }
    headers = {layout: framing.verify(each) for layout, each in data.items()}

    def audit(layout: str) -> Side:
        return local(
            f"envelope, {layout}", lambda _: check_envelope(data[layout], framing.verify(data[layout]))
        )

    def from_packed(_: object) -> None:
        check_packed(envelope.packed(data["hermitian"], headers["hermitian"]), n)

    assert check_envelope(data["hermitian"], headers["hermitian"]).valid
    array, packed, full, hermitian = interleave(
        [_check(rho), local("packed", from_packed), audit("full"), audit("hermitian")], effort
    )
    return [
        ratio(
            "packed",
            f"proof from hermitian bytes / from the full array, n = {n}",
            packed,
            array,
            sense="<=",
            goal=1.05,
            digits=2,
        ),
        ratio(
            "packed-envelope",
            f"the same from whole envelopes, digests checked: hermitian / full, n = {n}",
            hermitian,
            full,
            digits=2,
        ),
    ]


def small(effort: Effort) -> list[Row]:
    """Throughput where the arithmetic is nothing and the overhead everything."""
    return [_small(n, effort) for n in (16, 64)]


def _small(n: int, effort: Effort) -> Row:
    rho = density(n)
    eigen, ours = interleave(
        [
            local("eigvalsh", lambda _: np.linalg.eigvalsh(rho), inner=100),
            local("check", lambda _: check(rho), inner=100),
        ],
        effort,
    )
    rates = f"{1 / ours.median:,.0f} checks/s, eigvalsh {1 / eigen.median:,.0f}/s"
    measure = f"certified verify vs `eigvalsh`, n = {n}"
    return ratio(f"small-{n}", measure, eigen, ours, digits=2, detail=rates)

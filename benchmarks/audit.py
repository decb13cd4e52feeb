"""A page of envelopes in memory, their digests included, against eigenvalues: both on one core."""

from __future__ import annotations

import numpy as np
from matrices import density
from measure import Effort, Row, interleave, local, ratio

from somactl.core import envelope, framing
from somactl.core.batch import check_envelopes

PAGES = {16: (2000, 1.5), 64: (500, 4.5), 256: (50, 8.0)}
"""Of each order: how many envelopes make a page, and the goal."""
ROWS = [f"page-{n}" for n in PAGES]


def pages(effort: Effort) -> list[Row]:
    return [_page(n, count, goal, effort) for n, (count, goal) in PAGES.items()]


def _page(n: int, count: int, goal: float, effort: Effort) -> Row:
    matrices = [density(n, seed=seed) for seed in range(count)]
    page = [envelope.serialize_matrix(rho, key=f"bench/{i}") for i, rho in enumerate(matrices)]

    def eigenvalues(_: object) -> None:
        for rho in matrices:
            np.linalg.eigvalsh(rho)

    def prove(_: object) -> None:
        found = check_envelopes([(data, framing.verify(data)) for data in page])
        if (found.valid, found.rigour) != (count, "proved"):
            raise RuntimeError(f"no proof, hence nothing to measure: {found}")

    # A page that is read has headers that were not seen before.
    forget = framing.parse_header.cache_clear
    eigen, ours = interleave(
        [
            local("eigvalsh", eigenvalues, threaded=False),
            local("check_envelopes", prove, setup=forget, threaded=False),
        ],
        effort,
    )
    rates = f"{count / ours.median:,.0f} matrices/s, eigvalsh {count / eigen.median:,.0f}/s"
    measure = f"page of envelopes proven, digests included, vs `eigvalsh`, n = {n}, one core"
    return ratio(f"page-{n}", measure, eigen, ours, sense=">=", goal=goal, digits=2, detail=rates)

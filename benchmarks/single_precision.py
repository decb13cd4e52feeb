"""How often rounding a state to single precision leaves it slightly negative: the table of docs/NUMERICS.md.

Each state is G G^H / tr(G G^H) with a Gaussian G, n x rank. `python benchmarks/single_precision.py [STATES]`.
"""

from __future__ import annotations

import sys
from collections import Counter

from matrices import density

from somactl.core.invariants import check

ORDERS = (2, 4, 16, 64, 256)
STATES = 200


def ranks(n: int) -> list[tuple[str, int]]:
    found = [("1", 1), ("n/4", n // 4), ("n/2", n // 2), ("n - 1", n - 1), ("n", n)]
    return [(name, rank) for name, rank in found if rank >= 1 and (name in ("1", "n") or 1 < rank < n)]


def share(n: int, rank: int, states: int, *, is_complex: bool) -> str:
    dtype = "complex64" if is_complex else "float32"
    found = Counter(
        check(density(n, rank, complex_=is_complex, seed=seed).astype(dtype)).status for seed in range(states)
    )
    assert found["valid"] + found["clampable"] == states, found
    return f"{100 * found['clampable'] / states:.0f} %"


def main(states: int) -> None:
    print(f"| n | rank | float32 | complex64 |  ({states} states each)\n|---|---|---|---|")
    for n in ORDERS:
        for name, rank in ranks(n):
            cells = [share(n, rank, states, is_complex=is_complex) for is_complex in (False, True)]
            print(f"| {n} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else STATES)

"""The matrices that are measured: density matrices of known rank, the same in every process (numpy alone)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def density(n: int, rank: int | None = None, *, complex_: bool = False, seed: int = 7) -> NDArray[Any]:
    """An n x n density matrix G G^H / tr(G G^H), G n x rank Gaussian; Hermitian bit for bit, C order."""
    random = np.random.default_rng([seed, n, rank or n])
    factor = random.standard_normal((n, rank or n))
    if complex_:
        factor = factor + 1j * random.standard_normal(factor.shape)
    rho = factor @ factor.conj().T
    rho /= np.trace(rho).real
    lower = np.tril(rho, -1)
    return np.ascontiguousarray(lower + lower.conj().T + np.diag(np.diagonal(rho).real))

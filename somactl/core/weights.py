"""How often the diagonal entry of column j counts in the rounding error of a Cholesky factorisation."""

from __future__ import annotations

import numpy as np

from somactl.core.hermitian import Array


def weights(n: int, is_complex: bool, limit: int | None = None) -> Array:
    """w_1 .. w_n: `j + 4` (real), `2.8284272 (j + 2)` (complex), with j capped at `limit`; shape (n,).

    An entry of column j is an inner product of length j: j + 1 roundings, or 2j in each part of a complex
    one, whose two parts together weigh sqrt(2). The rest is spare (docs/CERTIFICATE.md, section 3).
    """
    j = np.arange(1.0, n + 1.0)
    if limit is not None:
        np.minimum(j, limit, out=j)
    weighted: Array = 2.8284272 * (j + 2.0) if is_complex else j + 4.0
    return weighted

"""Whether arithmetic rounds to nearest, as every proof assumes (docs/CERTIFICATE.md, A1).

The rounding mode is a register of each thread's processor state, which any library may change (`fesetround`,
a solver for intervals) and a new thread inherits. So the calling thread is asked at every check, which takes
a fraction of a microsecond, and the threads of BLAS, which live as long as the process, once.
Flushing denormal numbers to zero is another bit of that register; the bounds have room for it.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from somactl.core.lapack import fblas

NOT_TO_NEAREST = "arithmetic does not round to nearest"

# Variables, since a compiler would add constants up in its own rounding mode.
_one, _half_ulp, _more = 1.0, 2.0**-53, 1.5 * 2.0**-53


def rounds_to_nearest() -> bool:
    """Whether this thread rounds to nearest, ties to even; each other mode fails one of the sums."""
    return _one + _half_ulp == _one and -_one - _half_ulp == -_one and _one + _more > _one


@cache
def blas_threads_round_to_nearest() -> bool:
    """The same sums as inner products of a matrix product that is large enough to occupy every thread."""
    terms = np.zeros((64, 513), order="F")
    terms[:2, 0::3] = [[_one], [_half_ulp]]
    terms[:2, 1::3] = [[-_one], [-_half_ulp]]
    terms[:2, 2::3] = [[_one], [_more]]
    sums = fblas().dgemm(1.0, np.ones((513, 64), order="F"), terms)
    expected = [_one, -_one, _one + 2.0 * _half_ulp] * 171
    return bool(np.all(sums == expected))

"""What a check of one matrix found. Plain values: importable without numpy.

The words are those of DESIGN 4.2, published in `docs/CERTIFICATE.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from somactl.core.invariant_list import DEFAULT_TOLERANCE, measured, tolerated

Status = Literal["valid", "clampable", "violated", "undecided"]
Rigour = Literal["proved", "computed"]
Method = Literal["certify", "eigen", "sampled"]
T = TypeVar("T")


def _with_fields(wanted: dict[str, tuple[Any, Any]]) -> Callable[[type[T]], type[T]]:
    """Add to a dataclass-to-be the `wanted` fields (type, default) that it does not declare itself.

    It declares those that type checkers are to know; the list of invariants says which there are.
    """

    def add(cls: type[T]) -> type[T]:
        for name, (kind, default) in wanted.items():
            if name not in cls.__annotations__:
                cls.__annotations__[name] = kind
                setattr(cls, name, default)
        return cls

    return add


@dataclass(frozen=True, slots=True)
@_with_fields({each.name: (float, each.tolerance) for each in tolerated()})
class Tolerances:
    """How far a matrix may stand from each invariant; absolute, for a matrix of trace 1.

    psd: eps of `lambda_min(rho) >= -eps`; trace: `|tr rho - 1|`; hermitian: `max |rho - rho^H|`.
    """

    psd: float = DEFAULT_TOLERANCE
    trace: float = DEFAULT_TOLERANCE
    hermitian: float = DEFAULT_TOLERANCE


@dataclass(frozen=True, slots=True)
class Witness:
    """A vector x with `x^H rho x / x^H x < 0` beyond rounding: proof that rho is not PSD.

    value is a rigorous upper bound of `lambda_min`; vector lists the components of x (complex ones as
    `[re, im]` pairs), normalised to about length 1, so that the quotient can be recomputed.
    """

    value: float
    vector: tuple[float | tuple[float, float], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Numbers that cost an eigendecomposition and are computed on request only (`computed`, not proved).

    eigenvalues ascending; rank counts eigenvalues above n * u * max|eigenvalue|; purity is tr rho^2;
    entropy is -sum(l ln l) in nats over the positive eigenvalues.
    """

    eigenvalues: tuple[float, ...]
    rank: int
    purity: float
    entropy: float


@dataclass(frozen=True, slots=True)
@_with_fields({f"{each.name}_error": (float | None, None) for each in measured()})
class Verdict:
    """The outcome of `check(matrix, tolerances)`.

    status      valid | clampable | violated | undecided
    rigour      proved: by the theorem in docs/CERTIFICATE.md; computed: numerically, without proof
    reasons     one sentence for each invariant that keeps the status from being `valid`; empty if valid
    n           the dimension (0 where the input is not a square matrix)
    dtype       numpy name of what was checked, e.g. "float64"
    finite, square, psd_ok   psd_ok: None where PSD was not decided (undecided, or never reached)
    trace_error       |tr rho - 1|, exactly summed, then rounded; None where not measured
    hermitian_error   max |rho - rho^H| over all entries; None where not measured
    lambda_min_lower  proven lower bound of lambda_min of the Hermitian part; None where none was proven
    lambda_min_upper  proven upper bound (the witness's value); None where no witness was found
    tolerances  the effective ones (float32 data widen psd and trace)
    route       how PSD was decided: "cholesky", "early-stop", "packed", "diagonal", "factor", "eigen",
                "lanczos"; "" if it was not
    blas        the BLAS that factored, e.g. "openblas 0.3.30 SkylakeX, 2 threads"
    """

    status: Status
    rigour: Rigour
    reasons: tuple[str, ...]
    n: int
    dtype: str
    finite: bool
    square: bool
    psd_ok: bool | None
    trace_error: float | None
    hermitian_error: float | None
    lambda_min_lower: float | None
    lambda_min_upper: float | None
    tolerances: Tolerances
    route: str = ""
    blas: str = ""
    witness: Witness | None = None
    spectrum: Spectrum | None = None

    @property
    def valid(self) -> bool:
        return self.status == "valid"

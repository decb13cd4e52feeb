"""A verdict in the making: each measurement is judged against its tolerance as it comes in."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from somactl.core.certificate import Bounds
from somactl.core.lapack import NOT_TO_NEAREST, rounds_to_nearest
from somactl.core.trace import Exact, within
from somactl.core.verdict import Rigour, Spectrum, Status, Tolerances, Verdict, Witness


@dataclass(slots=True)
class Draft:
    """The fields of `Verdict` known so far; `proved` says whether the present status has been proved."""

    n: int
    dtype: str
    tolerances: Tolerances
    status: Status = "valid"
    proved: bool = False
    reasons: list[str] = field(default_factory=list)
    finite: bool = True
    square: bool = True
    psd_ok: bool | None = None
    trace_error: float | None = None
    hermitian_error: float | None = None
    lower: float | None = None
    witness: Witness | None = None
    route: str = ""
    blas: str = ""
    spectrum: Spectrum | None = None

    def widen(self, *, psd: float, trace: float, hermitian: float = 0.0) -> None:
        """Tolerances below what the rounding of the stored data may cost would condemn good data."""
        given = self.tolerances
        self.tolerances = replace(
            given,
            psd=max(given.psd, psd),
            trace=max(given.trace, trace),
            hermitian=max(given.hermitian, hermitian),
        )

    def violate(self, reason: str, *, proved: bool = True) -> None:
        self.proved = proved or (self.status == "violated" and self.proved)
        self.status = "violated"
        self.reasons.append(reason)

    def not_finite(self) -> Verdict:
        self.finite = False
        self.violate("finite: an entry is NaN or infinite")
        return self.verdict()

    def judge_hermitian(self, error: float) -> bool:
        self.hermitian_error = error
        if error <= self.tolerances.hermitian:  # a NaN on either side is a no
            return True
        self.violate(f"hermitian: max |rho - rho^H| is {_beyond(error, self.tolerances.hermitian)}")
        return False

    def judge_trace(self, error: float, exact: Exact) -> None:
        self.trace_error = error
        if not within(error, self.tolerances.trace, exact):
            self.violate(f"trace: |tr rho - 1| is {_beyond(error, self.tolerances.trace)}")

    def judge_psd(self, bounds: Bounds, *, trusted: bool) -> None:
        """Weigh the bounds of lambda_min.

        trusted: the lower bound rests on a BLAS that the theorem covers. A witness needs no BLAS.
        """
        eps = self.tolerances.psd
        self.route, self.witness = bounds.route, bounds.witness
        self.lower = bounds.lower if trusted else None
        upper = bounds.witness.value if bounds.witness else None
        if upper is not None and upper < -eps:
            self.psd_ok = False
            self.violate(f"psd: a witness proves lambda_min <= {upper:.3g}, below -{eps:.3g}")
        elif bounds.lower is None or not bounds.lower >= -eps:  # a NaN tolerance accepts nothing
            self.undecided(f"neither lambda_min >= -{eps:.3g} nor the contrary could be proved")
        elif upper is None or bounds.lower >= -bounds.smallest:
            self.accept("valid", proved=trusted)
        else:
            reason = f"psd: slightly negative, {bounds.lower:.3g} <= lambda_min <= {upper:.3g}"
            self.accept("clampable", reason, proved=trusted)

    def _disprove(self) -> None:
        """Take back every proof: all of them count roundings to nearest."""
        self.proved, self.lower, self.witness = False, None, None
        self.blas = ", ".join(filter(None, (self.blas, NOT_TO_NEAREST)))

    def accept(self, status: Status, reason: str = "", *, proved: bool) -> None:
        """psd holds within its tolerance; the status follows unless another invariant is out already."""
        self.psd_ok = True
        if reason:
            self.reasons.append(reason)
        if self.status == "valid":
            self.status, self.proved = status, proved

    def undecided(self, reason: str) -> None:
        self.reasons.append(f"psd: undecided, {reason}")
        if self.status == "valid":
            self.status = "undecided"

    def verdict(self) -> Verdict:
        if not rounds_to_nearest():
            self._disprove()
        rigour: Rigour = "proved" if self.proved else "computed"
        return Verdict(
            status=self.status,
            rigour=rigour,
            reasons=tuple(self.reasons),
            n=self.n,
            dtype=self.dtype,
            finite=self.finite,
            square=self.square,
            psd_ok=self.psd_ok,
            trace_error=self.trace_error,
            hermitian_error=self.hermitian_error,
            lambda_min_lower=self.lower,
            lambda_min_upper=self.witness.value if self.witness else None,
            tolerances=self.tolerances,
            route=self.route,
            blas=self.blas,
            witness=self.witness,
            spectrum=self.spectrum,
        )


def _beyond(error: float, tolerance: float) -> str:
    """`A, more than B`, in as many digits as it takes to tell them apart."""
    for digits in (3, 6, 17):
        texts = [f"{number:.{digits}g}" for number in (error, tolerance)]
        if texts[0] != texts[1]:
            break
    else:
        texts[0] += " once rounded"
    return f"{texts[0]}, more than {texts[1]}"

"""A verdict in the making: each measurement is judged against its tolerance as it comes in."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from somactl.core.certificate import Bounds
from somactl.core.invariant_list import Invariant, measured, tolerated
from somactl.core.lapack import NOT_TO_NEAREST, rounds_to_nearest
from somactl.core.trace import within
from somactl.core.verdict import Rigour, Spectrum, Status, Tolerances, Verdict, Witness

if TYPE_CHECKING:
    from somactl.core.subject import Sizes, Subject


class NotFinite(Exception):
    """A check came upon a NaN or an infinity among the entries."""


@dataclass(slots=True)
class Draft:
    """The fields of `Verdict` known so far.

    proved  whether the present status has been proved
    errors  what was measured, by the name of the invariant
    broken  the names of the invariants that do not hold
    """

    n: int
    dtype: str
    tolerances: Tolerances
    status: Status = "valid"
    proved: bool = False
    reasons: list[str] = field(default_factory=list)
    finite: bool = True
    square: bool = True
    psd_ok: bool | None = None
    errors: dict[str, float] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    lower: float | None = None
    witness: Witness | None = None
    route: str = ""
    blas: str = ""
    spectrum: Spectrum | None = None

    def widen(self, sizes: Sizes) -> None:
        """Tolerances below what the rounding of the stored data may cost would condemn good data."""
        wider: dict[str, Any] = {
            each.name: max(getattr(self.tolerances, each.name), each.rounding(sizes))
            for each in tolerated()
            if each.rounding is not None
        }
        self.tolerances = replace(self.tolerances, **wider)

    def violate(self, name: str, reason: str, *, proved: bool = True) -> None:
        """The invariant called `name` does not hold."""
        self.proved = proved or (self.status == "violated" and self.proved)
        self.status = "violated"
        self.reasons.append(reason)
        self.broken.add(name)

    def measure(self, invariant: Invariant, subject: Subject) -> bool:
        """Measure the subject's error and compare it with the tolerance; whether the invariant holds."""
        assert invariant.measure is not None
        tolerance: float = getattr(self.tolerances, invariant.name)
        error = self.errors[invariant.name] = invariant.measure(subject, tolerance)
        exact = invariant.exact
        if within(error, tolerance, None if exact is None else lambda: exact(subject)):
            return True
        self.violate(invariant.name, f"{invariant.name}: {invariant.symbol} is {_beyond(error, tolerance)}")
        return False

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
            self.violate("psd", f"psd: a witness proves lambda_min <= {upper:.3g}, below -{eps:.3g}")
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
        errors: dict[str, Any] = {f"{each.name}_error": self.errors.get(each.name) for each in measured()}
        return Verdict(
            status=self.status,
            rigour=rigour,
            reasons=tuple(self.reasons),
            n=self.n,
            dtype=self.dtype,
            finite=self.finite,
            square=self.square,
            psd_ok=self.psd_ok,
            lambda_min_lower=self.lower,
            lambda_min_upper=self.witness.value if self.witness else None,
            tolerances=self.tolerances,
            route=self.route,
            blas=self.blas,
            witness=self.witness,
            spectrum=self.spectrum,
            **errors,
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

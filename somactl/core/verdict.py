"""The invariants of a density matrix, and what a check of one matrix found. Importable without numpy.

The words are those of docs/CERTIFICATE.md. The invariants are a list, of which one entry holds all that
somactl knows of one of them.

The walk of `invariants.check` follows it, and so do the fields of `Verdict` and `Tolerances`, the settings
and flags, the refusal of a commit, the lines of a verdict, `somactl explain` and the generated pages. To add
an invariant is to add an entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from somactl.errors import InvariantViolated
from somactl.suggestion import Suggestion, again

if TYPE_CHECKING:
    from fractions import Fraction

    from somactl.core.draft import Draft
    from somactl.core.invariants import Sizes, Subject

U32 = 2.0**-24
"""Unit roundoff of float32."""
DEFAULT_TOLERANCE = 1e-8

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Remedy:
    """What an operator can do about a matrix that is refused: a sentence, and the commands that do it."""

    hint: str
    next: tuple[Suggestion, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Invariant:
    """One property that a density matrix has.

    name       the word for it in reasons, and in the names of its fields, setting and flag
    holds      what must hold, as a sentence
    judge      weighs a subject and notes in the draft what it found; None where `measure` says it all
    measure    the error of a subject, given the tolerance: NAME_error in a verdict; `symbol` is its formula
    exact      the error before it was rounded, for the case that its rounded value equals the tolerance
    tolerance  how large an error may be unless a setting says otherwise; None where none is allowed
    effect     what the tolerance allows, for the setting NAME_tolerance
    rounding   what rounding the entries to float32 may have cost, by which such data widen the tolerance
    needs      the names of those that must hold for this one to say anything
    fails      whether a verdict says that it does not hold; by default by the error
    tells      the lines by which a verdict is told; by default the error and the tolerance
    remedy     what helps a matrix of that verdict and shape; None for what helps in general
    error      what a commit is refused with: its exit code and runbook are those of the invariant
    """

    name: str
    holds: str
    judge: Callable[[Subject, Draft], Any] | None = None
    measure: Callable[[Subject, float], float] | None = None
    symbol: str = ""
    exact: Callable[[Subject], Fraction] | None = None
    tolerance: float | None = None
    effect: str = ""
    rounding: Callable[[Sizes], float] | None = None
    needs: tuple[str, ...] = ("square",)
    fails: Callable[[Verdict], bool] | None = None
    tells: Callable[[Verdict], Iterator[str]] | None = None
    remedy: Callable[[Verdict, Shape | None], Remedy | None] = lambda verdict, shape: None
    error: type[InvariantViolated] = InvariantViolated

    def judged(self, subject: Subject, draft: Draft) -> None:
        """Weigh the subject. Raises NotFinite where it turns out to hold a NaN or an infinity."""
        if self.judge is not None:
            self.judge(subject, draft)
        else:
            draft.measure(self, subject)

    def error_in(self, verdict: Verdict) -> float | None:
        """What was measured; None where nothing was."""
        error: float | None = getattr(verdict, f"{self.name}_error") if self.measure else None
        return error

    def is_broken(self, verdict: Verdict) -> bool:
        if self.fails is not None:
            return self.fails(verdict)
        error = self.error_in(verdict)
        return error is not None and error > getattr(verdict.tolerances, self.name)

    def lines(self, verdict: Verdict) -> Iterator[str]:
        """The numbers behind what a verdict says of it."""
        if self.tells is not None:
            yield from self.tells(verdict)
        elif (error := self.error_in(verdict)) is not None:
            allowed = getattr(verdict.tolerances, self.name)
            yield f"{self.name} error: {error:.3e} (tolerance {allowed:.1e})"


def _judge_finite(subject: Subject, draft: Draft) -> None:
    sizes = subject.finite(draft)
    if sizes is not None:
        draft.widen(sizes)


def _judge_square(subject: Subject, draft: Draft) -> None:
    if subject.misshapen:
        draft.square = False
        draft.violate("square", subject.misshapen)


def _judge_hermitian(subject: Subject, draft: Draft) -> None:
    if not draft.measure(HERMITIAN, subject):
        subject.require_finite()


def _square_remedy(verdict: Verdict, shape: Shape | None) -> Remedy:
    if shape is not None and shape[0] > shape[1]:
        factor = "`layout=factor` stores rho = F F^H of an n x k F"
        return Remedy(f"{factor}; `kind=matrix` or `kind=sketch` stores F itself")
    hint = "a value that is no density matrix is committed with `kind=matrix` or `kind=sketch`"
    return Remedy(hint, (again(kind="matrix"),))


def _trace_remedy(verdict: Verdict, shape: Shape | None) -> Remedy:
    hint = "`normalize` divides by the trace; `clamp` `max_move=D` stores the nearest density matrix"
    return Remedy(hint, (again(normalize=True),) if verdict.psd_ok is not False else ())


def _eigenvalue_lines(verdict: Verdict) -> Iterator[str]:
    lower, upper = verdict.lambda_min_lower, verdict.lambda_min_upper
    if lower is not None:
        yield f"smallest eigenvalue >= {lower:.3e}, proved (tolerance -{verdict.tolerances.psd:.1e})"
    if upper is not None:
        yield f"smallest eigenvalue <= {upper:.3e}, by a witness vector"


FINITE = Invariant(
    name="finite",
    holds="Every entry is a number: neither NaN nor infinite.",
    judge=_judge_finite,
    needs=(),
    fails=lambda verdict: not verdict.finite,
    tells=lambda verdict: iter(()),
    remedy=lambda verdict, shape: Remedy(
        "find out where the NaN or Inf came from; no kind of matrix may hold one"
    ),
)
SQUARE = Invariant(
    name="square",
    holds="The matrix has as many rows as columns, and its entries are numbers that float64 holds exactly.",
    judge=_judge_square,
    needs=(),
    fails=lambda verdict: not verdict.square,
    tells=lambda verdict: iter(()),
    remedy=_square_remedy,
)
HERMITIAN = Invariant(
    name="hermitian",
    holds="The matrix equals its conjugate transpose.",
    judge=_judge_hermitian,
    measure=lambda subject, tolerance: subject.asymmetry,
    symbol="max |rho - rho^H|",
    tolerance=DEFAULT_TOLERANCE,
    effect="how far an entry may be from its mirror's conjugate",
    # A single-precision program computed rho_ij and rho_ji apart: each is off by u |rho_ij|.
    rounding=lambda sizes: 2.0 * U32 * sizes.largest,
)
TRACE = Invariant(
    name="trace",
    holds="The diagonal sums to 1.",
    measure=lambda subject, tolerance: subject.trace_error(tolerance),
    symbol="|tr rho - 1|",
    exact=lambda subject: subject.exact_trace_error(),
    tolerance=DEFAULT_TOLERANCE,
    effect="how far from 1 the trace may be",
    rounding=lambda sizes: U32 * sizes.diagonal,
    remedy=_trace_remedy,
)
PSD = Invariant(
    name="psd",
    holds="No eigenvalue is negative: the matrix is positive semi-definite.",
    judge=lambda subject, draft: subject.judge_psd(draft),
    symbol="-lambda_min",
    tolerance=DEFAULT_TOLERANCE,
    effect="how far below 0 the smallest eigenvalue may be proven to lie",
    rounding=lambda sizes: U32 * sizes.norm,
    needs=("square", "hermitian"),
    fails=lambda verdict: verdict.psd_ok is False,
    tells=_eigenvalue_lines,
)

INVARIANTS: tuple[Invariant, ...] = (FINITE, SQUARE, HERMITIAN, TRACE, PSD)
"""In the order in which they are checked and told."""
TOLERATED = tuple(each for each in INVARIANTS if each.tolerance is not None)
"""Those that a matrix may miss by a tolerance."""
ERROR_FIELDS = {each.name: f"{each.name}_error" for each in INVARIANTS if each.measure is not None}
"""The field of a verdict for each of those that are measured."""


def remedy_for(verdict: Verdict, shape: Shape | None = None) -> tuple[Remedy, type[InvariantViolated]]:
    """What helps a matrix of `shape` that is refused for its verdict, and the class of the refusal."""
    if verdict.status == "undecided":
        hint = "allow a larger psd tolerance, or symmetrise and scale the matrix upstream"
        return Remedy(hint), PSD.error
    if verdict.status == "clampable":
        hint = "`on_clampable=clamp` stores the nearest density matrix"
        return Remedy(hint, (again(on_clampable="clamp"),)), PSD.error
    broken = [each for each in INVARIANTS if each.is_broken(verdict)]
    found = next(filter(None, (each.remedy(verdict, shape) for each in broken)), None)
    general = "`clamp` `max_move=D` stores the nearest density matrix, if it is no farther than D"
    return found or Remedy(general), (broken or [PSD])[0].error


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
@_with_fields({each.name: (float, each.tolerance) for each in TOLERATED})
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
@_with_fields(dict.fromkeys(ERROR_FIELDS.values(), (float | None, None)))
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

    def without_vector(self) -> Verdict:
        """The same without the n components of its witness, which a report of many would drown in."""
        witness = self.witness and replace(self.witness, vector=())
        return replace(self, witness=witness)

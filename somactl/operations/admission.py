"""From what an operator hands in to the envelope that may be stored: check, mend if asked, encode, recheck.

Nothing here touches a store, so a dry run is this and nothing more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from somactl.core.framing import peek
from somactl.core.verdict import Tolerances, Verdict, remedy_for
from somactl.errors import InputRejected, InvariantViolated, WrongAddress
from somactl.report import Move
from somactl.store.contract import Entry
from somactl.suggestion import again

if TYPE_CHECKING:
    import numpy as np

    from somactl.core.envelope import Encoded
    from somactl.core.framing import Header


@dataclass(frozen=True, slots=True)
class Policy:
    """What may be done to a matrix on its way in.

    kind        rho | sketch | matrix; None keeps the envelope's own, or means rho
    dtype       float32 | complex64 to store it smaller; None keeps float64 / complex128
    on_clampable  clamp: a matrix within tolerance but provably not PSD is stored clamped; refuse: it is not
    clamp, max_move  also mend a violated one, if that moves it by at most max_move (Frobenius norm)
    normalize   divide by the trace first
    readdress   accept an envelope written for another key or namespace
    change_kind  let a value that is no rho replace one that is
    dark        what an invariant would refuse is stored as it is, with its verdict, and marked. Nothing is
                clamped but by `clamp`, which the caller asks for, and not beyond `max_move`
    """

    kind: str | None = None
    dtype: str | None = None
    layout: str = "auto"
    compression: str | None = None
    on_clampable: Literal["clamp", "refuse"] = "clamp"
    clamp: bool = False
    max_move: float = 0.0
    normalize: bool = False
    readdress: bool = False
    change_kind: bool = False
    dark: bool = False
    tolerances: Tolerances = field(default_factory=Tolerances)


@dataclass(frozen=True, slots=True)
class Admitted:
    """An envelope ready to be committed, and everything a report says of it."""

    data: bytes
    header: Header
    verdict: Verdict | None
    moves: list[Move]

    @property
    def dark(self) -> bool:
        """Whether an invariant would refuse it, and it is admitted in dark mode alone."""
        return self.verdict is not None and not self.verdict.valid


def admit_bytes(
    content: bytes, source: str, key: str, namespace: str, policy: Policy, timestamp: float
) -> Admitted:
    """Admit the matrix in a file's content: .npy, .npz, an envelope or legacy JSON.

    Raises InvalidFile, InvalidJson or an EnvelopeError naming `source`; InvariantViolated naming `key`.
    """
    from somactl.core.envelope import factor
    from somactl.core.matrix_file import parse_matrix_file

    parsed = parse_matrix_file(content, source, vector=policy.layout == "factor")
    layout, kind = policy.layout, policy.kind
    array = None
    if parsed.envelope is not None and parsed.header is not None:
        header = parsed.header
        if (header.namespace, header.key) != (namespace, key) and not policy.readdress:
            raise WrongAddress(
                f"{source}: the envelope was written for key {header.key!r} of namespace "
                f"{header.namespace!r}, not for {key!r} of {namespace!r}",
                hint="check which file belongs to which key; `readdress` accepts it under the new name",
                next=again(readdress=True),
            )
        kind = kind or header.kind
        if header.layout == "factor" and layout in ("auto", "factor"):
            array, layout = factor(parsed.envelope, header), "factor"
    array = parsed.array if array is None else array
    return admit(array, key, namespace, policy, timestamp, kind=kind or "rho", layout=layout)


@dataclass(frozen=True, slots=True)
class Proven:
    """A matrix that may be stored, mended where `moves` says so.

    A rho has its invariants proven; in dark mode its verdict may say otherwise.
    """

    array: np.ndarray
    verdict: Verdict | None
    moves: list[Move]


def admit(
    array: np.ndarray,
    key: str,
    namespace: str,
    policy: Policy,
    timestamp: float,
    *,
    kind: str = "rho",
    layout: str = "auto",
) -> Admitted:
    """Admit one array (n x n for a rho, n x k for a factor). Raises InvariantViolated, EnvelopeError."""
    proven = prove(array, key, policy, kind=kind, layout=layout)
    return encode_proven(proven, key, namespace, policy, timestamp, kind=kind, layout=layout)


def prove(array: np.ndarray, key: str, policy: Policy, *, kind: str = "rho", layout: str = "auto") -> Proven:
    """The array with its verdict, mended as far as `policy` allows: proven, unless that says `dark`.

    Raises InvariantViolated, and InputRejected for what is no two-dimensional array of exact numbers.
    """
    from somactl.core import projection
    from somactl.core.array_input import as_matrix
    from somactl.core.invariants import check, check_factor

    array = as_matrix(array, key)
    if kind != "rho":
        return Proven(array, None, [])
    moves: list[Move] = []
    judge = check_factor if layout == "factor" else check
    if policy.normalize and layout != "factor":
        array = _normalized(array, policy, moves)
    verdict = judge(array, policy.tolerances)
    if _may_clamp(verdict, policy) and layout != "factor":
        nearest = projection.nearest(array)
        bounded = policy.dark or verdict.status == "violated"
        if not bounded or nearest.moved <= policy.max_move:
            moves.append(Move(method="clamp", distance=nearest.moved))
            array = nearest.matrix
            verdict = judge(array, policy.tolerances)
        elif not policy.dark:
            raise _refusal(
                key,
                verdict,
                f"clamping would move it by {nearest.moved:.3e}, "
                f"more than the {policy.max_move:g} allowed; it ",
            )
    if not _passes(verdict, policy):
        raise _refusal(key, verdict, shape=array.shape)
    return Proven(array, verdict, moves)


def _normalized(array: np.ndarray, policy: Policy, moves: list[Move]) -> np.ndarray:
    """The array divided by its trace. In dark mode one that has no such trace stays as it is."""
    from somactl.core import projection

    try:
        normalized = projection.normalize(array)
    except InputRejected:
        if not policy.dark:
            raise
        return array  # what else is wrong with it is for its verdict to say
    moves.append(Move(method="normalize", distance=normalized.moved))
    return normalized.matrix


def _may_clamp(verdict: Verdict, policy: Policy) -> bool:
    """Whether the nearest density matrix may take its place. In dark mode the caller has to ask for it."""
    if verdict.status == "clampable":
        return policy.clamp if policy.dark else policy.on_clampable == "clamp"
    return verdict.status == "violated" and policy.clamp and verdict.finite and verdict.square


def _passes(verdict: Verdict, policy: Policy) -> bool:
    """Whether it may be stored: proven, or in dark mode any square matrix of numbers."""
    return verdict.valid or (policy.dark and verdict.finite and verdict.square)


def encode_proven(
    proven: Proven,
    key: str,
    namespace: str,
    policy: Policy,
    timestamp: float,
    *,
    kind: str = "rho",
    layout: str = "auto",
) -> Admitted:
    """The envelope of what `prove` returned, proven again where it had to be rounded. Raises as `admit`."""
    from somactl.core.envelope import encode

    def encoded(matrix: np.ndarray) -> Encoded:
        return encode(
            matrix,
            key=key,
            namespace=namespace,
            kind=kind,
            dtype=policy.dtype,
            layout=layout,
            compression=policy.compression,
            timestamp=timestamp,
        )

    verdict, moves = proven.verdict, [*proven.moves]
    result = encoded(proven.array)
    if result.rounding_frobenius:
        moves.append(Move(method="round", distance=result.rounding_frobenius))
    if verdict is not None and result.rounding_frobenius:
        # Rounded, it is another matrix; else what was proven is, bit for bit, what is stored.
        verdict = _check_stored(result, policy)
        if verdict.status == "clampable" and _may_clamp(verdict, policy) and layout != "factor":
            result, verdict = _lifted(proven, result, verdict, policy, moves, encoded)
        if not _passes(verdict, policy):
            raise _refusal(key, verdict, "as it would be stored it ")
    return Admitted(data=result.data, header=result.header, verdict=verdict, moves=moves)


def _lifted(
    proven: Proven,
    rounded: Encoded,
    verdict: Verdict,
    policy: Policy,
    moves: list[Move],
    encoded: Callable[[np.ndarray], Encoded],
) -> tuple[Encoded, Verdict]:
    """The nearest density matrix that is still one after the rounding that broke the given one."""
    from somactl.core import projection

    lifted = projection.nearest(proven.array, dtype=rounded.header.dtype)
    if policy.dark and lifted.moved > policy.max_move:
        return rounded, verdict
    moves.append(Move(method="clamp", distance=lifted.moved))
    result = encoded(lifted.matrix)
    return result, _check_stored(result, policy)


def _check_stored(result: Encoded, policy: Policy) -> Verdict:
    from somactl.core.verification import check_envelope

    return check_envelope(result.data, result.header, policy.tolerances)


REFUSED = {
    "violated": "is no density matrix",
    "clampable": "is negative within tolerance, which may not be stored as it is",
    "undecided": "could be neither proven nor refuted",
}


def _refusal(
    key: str, verdict: Verdict, before: str = "", shape: tuple[int, ...] | None = None
) -> InvariantViolated:
    remedy, refusal = remedy_for(verdict, shape)
    message = f"key {key!r}: {before}{REFUSED[verdict.status]}: {'; '.join(verdict.reasons)}"
    return refusal(message, verdict=verdict, hint=remedy.hint, next=remedy.next)


def readmit(entry: Entry, tolerances: Tolerances, *, dark: bool) -> Admitted:
    """The entry's value to be committed again: bit for bit the same, and checked again.

    What an invariant refuses is refused, also what dark mode admitted before: InvariantViolated. In dark
    mode it is admitted, with its verdict as of now.
    """
    header = peek(entry.data)
    verdict = None
    if header.kind == "rho":
        from somactl.core.verification import check_envelope

        verdict = check_envelope(entry.data, header, tolerances)
        if not _passes(verdict, Policy(dark=dark)):
            raise InvariantViolated(
                f"key {entry.key!r}: version {entry.version} is {verdict.status}: "
                f"{'; '.join(verdict.reasons)}",
                verdict=verdict,
                hint="get it, mend it, and commit it with `clamp`",
            )
    return Admitted(data=bytes(entry.data), header=header, verdict=verdict, moves=[])

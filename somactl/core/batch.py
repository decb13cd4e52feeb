"""Many envelopes proven together, so that a small matrix costs little more than its factorisation.

Those of one order, type and layout form a group. The first of a group goes through the check of one envelope;
the others are stacked (`stack`), and those that it proves have the first one's verdict but for their numbers.
Whatever is not proven in a stack, for whatever reason, goes through the check of one envelope too, from the
bytes it came in: so outcomes, and the numbers in them, are those of that check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from somactl.core.byte_shuffle import decompress
from somactl.core.certificate import FROM_ORDER
from somactl.core.framing import Header, digest
from somactl.core.lapack import limited, rounds_to_nearest
from somactl.core.portions import batched
from somactl.core.stack import Form, Proof, prove
from somactl.core.verdict import (
    FINITE,
    HERMITIAN,
    INVARIANTS,
    PSD,
    SQUARE,
    TRACE,
    Method,
    Rigour,
    Tolerances,
    Verdict,
)
from somactl.core.verification import check_envelope
from somactl.errors import CorruptValue, EnvelopeError, SomactlError

Item = tuple[bytes | memoryview, Header]

STACK_BYTES = 4 << 20
"""Of a stack: rows enough to make little of numpy's overhead, and few enough for a processor's caches."""
WORTH_STACKING = 4
"""How many must remain in a group, or numpy's overhead for a stack exceeds what it saves."""

_COMPLETE = INVARIANTS == (FINITE, SQUARE, HERMITIAN, TRACE, PSD)
"""Whether a proof in a stack covers all invariants there are."""


class _Like(NamedTuple):
    """A verdict that is another one's but for its numbers."""

    first: Verdict
    proof: Proof

    def verdict(self) -> Verdict:
        trace_error, lower, tolerances = self.proof
        return replace(self.first, trace_error=trace_error, lambda_min_lower=lower, tolerances=tolerances)


Outcome = Verdict | _Like | SomactlError


@dataclass(frozen=True, slots=True)
class Batch:
    """What was found of many envelopes, in their order.

    count              how many there are
    valid              how many verdicts have status valid
    worst_trace_error  the largest |tr rho - 1| of all verdicts that measured one
    lowest_lambda_min  the lowest bound of lambda_min, at most 0: of each verdict the witness's if it has
                       one, else the proven lower bound; None where no verdict has either
    rigour             computed if that of any verdict is, else proved; None where there is no verdict
    blas               of the first verdict that has one
    others             each outcome that is no valid verdict, by its index: the verdict, or the error where
                       the payload does not decode
    """

    count: int
    valid: int
    worst_trace_error: float | None
    lowest_lambda_min: float | None
    rigour: Rigour | None
    blas: str
    others: Mapping[int, Verdict | SomactlError]
    _outcomes: Mapping[int, Outcome] = field(repr=False)

    def verdict(self, index: int) -> Verdict:
        """The verdict on a valid member: what the check of that envelope alone gives. Raises KeyError."""
        if index in self.others:
            raise KeyError(index)
        found = self._outcomes[index]
        assert not isinstance(found, SomactlError)
        return found.verdict() if isinstance(found, _Like) else found


def check_envelopes(
    items: Sequence[Item],
    tolerances: Tolerances | None = None,
    *,
    method: Method = "certify",
    spectrum: bool = False,
) -> Batch:
    """The verdicts of `check_envelope` on envelopes whose framing and digests are verified already.

    A payload that does not decode is an outcome in `others`, not an error of the call. Takes a few MB beside
    the envelopes, and what the check of the largest of them takes.
    """
    tolerances = tolerances or Tolerances()

    def alone(index: int) -> Verdict | SomactlError:
        data, header = items[index]
        try:
            return check_envelope(data, header, tolerances, method=method, spectrum=spectrum)
        except (EnvelopeError, CorruptValue) as exc:
            return exc

    found: dict[int, Outcome] = {}
    if _COMPLETE and method == "certify" and not spectrum:
        for form, members in _groups(items):
            found.update(_of_group(form, iter(members), items, tolerances, alone))
    found.update((index, alone(index)) for index in range(len(items)) if index not in found)
    return _summed_up(found)


def _groups(items: Sequence[Item]) -> Iterator[tuple[Form, list[int]]]:
    """The indices of envelopes that may be stacked, by what they have in common."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, (_, header) in enumerate(items):
        groups.setdefault((header.shape, header.dtype, header.layout), []).append(index)
    for (shape, dtype, layout), members in groups.items():
        # From FROM_ORDER on a matrix may be proven by fewer columns, and is large enough to go alone.
        if layout != "factor" and shape[0] == shape[1] < FROM_ORDER and len(members) > WORTH_STACKING:
            yield Form(shape[0], dtype, layout), members


def _of_group(
    form: Form,
    members: Iterator[int],
    items: Sequence[Item],
    tolerances: Tolerances,
    alone: Callable[[int], Verdict | SomactlError],
) -> dict[int, Outcome]:
    """What is found of those members that prove in a stack, and of those that had to go first."""
    found: dict[int, Outcome] = {}
    first = _first(form, members, alone, found)
    remaining = list(members)
    if first is None or len(remaining) < WORTH_STACKING:
        return found
    with limited(form.n):
        for portion in batched(remaining, max(1, STACK_BYTES // form.row_bytes)):
            payloads = {
                index: each for index in portion if (each := _stored(*items[index], form)) is not None
            }
            proofs = prove(list(payloads.values()), form, tolerances) if payloads else []
            if not rounds_to_nearest():
                break
            for index, proof in zip(payloads, proofs, strict=True):
                if proof is not None:
                    found[index] = _Like(first, proof)
    return found


def _first(
    form: Form,
    members: Iterator[int],
    alone: Callable[[int], Verdict | SomactlError],
    found: dict[int, Outcome],
) -> Verdict | None:
    """The first verdict that others may share: proven as a stack proves, by a BLAS that can be trusted."""
    route = "packed" if form.packed else "cholesky"
    for index in members:
        outcome = found[index] = alone(index)
        if isinstance(outcome, Verdict) and outcome.valid and outcome.rigour == "proved":
            usual = outcome.route == route and outcome.lambda_min_upper is None
            if usual and outcome.hermitian_error == 0.0:
                return outcome
    return None


def _stored(data: bytes | memoryview, header: Header, form: Form) -> Any | None:
    """The payload, decompressed and as long as a row; None where the check of one envelope must see it."""
    begin = header.header_length
    stored: Any = memoryview(data)[begin : begin + header.payload_length]
    if header.compression != "none":
        try:
            stored = decompress(stored, header.raw_length, form.stored, header.key)
        except EnvelopeError:
            return None
        if header.layout == "full" and digest(stored) != header.canonical_digest:
            return None
    return stored if stored.nbytes == form.row_bytes else None


def _summed_up(found: Mapping[int, Outcome]) -> Batch:
    """The batch of these outcomes, one for each index below their number."""
    trace_errors: list[float | None] = []
    bounds: list[float | None] = []
    rigours: set[Rigour] = set()
    others: dict[int, Verdict | SomactlError] = {}
    blas = ""
    for index in range(len(found)):
        outcome = found[index]
        if isinstance(outcome, _Like):
            trace_errors.append(outcome.proof.trace_error)
            bounds.append(outcome.proof.lower)
            continue
        if isinstance(outcome, SomactlError) or not outcome.valid:
            others[index] = outcome
        if isinstance(outcome, Verdict):
            trace_errors.append(outcome.trace_error)
            upper = outcome.lambda_min_upper
            bounds.append(outcome.lambda_min_lower if upper is None else upper)
            rigours.add(outcome.rigour)
            blas = blas or outcome.blas
    known = [bound for bound in bounds if bound is not None]
    return Batch(
        count=len(found),
        valid=len(found) - len(others),
        worst_trace_error=max((error for error in trace_errors if error is not None), default=None),
        lowest_lambda_min=min(0.0, min(known)) if known else None,
        rigour="computed" if "computed" in rigours else "proved" if rigours else None,
        blas=blas,
        others=others,
        _outcomes=found,
    )

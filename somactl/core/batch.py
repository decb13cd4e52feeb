"""Many envelopes proven together, so that a small matrix costs little more than its factorisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from somactl.core.framing import Header
from somactl.core.verdict import Method, Rigour, Tolerances, Verdict
from somactl.core.verification import check_envelope
from somactl.errors import CorruptValue, EnvelopeError, SomactlError

Item = tuple[bytes | memoryview, Header]


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
    _verdicts: Mapping[int, Verdict] = field(repr=False)

    def verdict(self, index: int) -> Verdict:
        """The verdict on a valid member: what the check of that envelope alone gives. Raises KeyError."""
        return self._verdicts[index]


def check_envelopes(
    items: Sequence[Item],
    tolerances: Tolerances | None = None,
    *,
    method: Method = "certify",
    spectrum: bool = False,
) -> Batch:
    """The verdicts of `check_envelope` on envelopes whose framing and digests are verified already.

    A payload that does not decode is an outcome in `others`, not an error of the call.
    """
    found: dict[int, Verdict] = {}
    others: dict[int, Verdict | SomactlError] = {}
    for index, (data, header) in enumerate(items):
        try:
            verdict = check_envelope(data, header, tolerances, method=method, spectrum=spectrum)
        except (EnvelopeError, CorruptValue) as exc:
            others[index] = exc
            continue
        (found if verdict.valid else others)[index] = verdict
    return _summed_up(len(items), found, others)


def _summed_up(
    count: int, valid: Mapping[int, Verdict], others: Mapping[int, Verdict | SomactlError]
) -> Batch:
    everyone = dict(sorted({**valid, **others}.items())).values()
    verdicts = [each for each in everyone if isinstance(each, Verdict)]
    traces = [each.trace_error for each in verdicts if each.trace_error is not None]
    bounds = [
        bound
        for each in verdicts
        if (bound := each.lambda_min_lower if each.lambda_min_upper is None else each.lambda_min_upper)
        is not None
    ]
    rigours: set[Rigour] = {each.rigour for each in verdicts}
    return Batch(
        count=count,
        valid=len(valid),
        worst_trace_error=max(traces, default=None),
        lowest_lambda_min=min(0.0, *bounds) if bounds else None,
        rigour="computed" if "computed" in rigours else ("proved" if rigours else None),
        blas=next((each.blas for each in verdicts if each.blas), ""),
        others=others,
        _verdicts=valid,
    )

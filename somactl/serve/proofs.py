"""What an audit found of a key, as the prover tells it."""

from __future__ import annotations

from typing import cast

from somactl.report import Checked
from somactl.serve.model import GOOD, Outcome, Proof


def as_proof(checked: Checked) -> Proof:
    """The outcome without what takes much room. A value that is no rho (any more) is absent."""
    if checked.outcome in ("skipped", "rejected"):
        return Proof(checked.source, "absent")
    outcome, verdict = cast(Outcome, checked.outcome), checked.verdict
    if verdict is None:
        reasons = (checked.error,) if checked.error else ()
        return Proof(checked.source, outcome, checked.version, reasons=reasons, dark=checked.dark)
    upper, lower = verdict.lambda_min_upper, verdict.lambda_min_lower
    return Proof(
        checked.source,
        outcome,
        checked.version,
        trace_error=verdict.trace_error,
        lambda_min_bound=lower if upper is None else upper,
        reasons=verdict.reasons,
        dark=checked.dark,
    )


def is_bad(proof: Proof) -> bool:
    return proof.outcome not in (*GOOD, "absent")

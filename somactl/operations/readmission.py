"""Stored bytes as a new put."""

from __future__ import annotations

from somactl.core.framing import peek
from somactl.core.verdict import Tolerances
from somactl.errors import InvariantViolated
from somactl.operations.admission import Admitted
from somactl.store.contract import Entry


def readmit(entry: Entry, tolerances: Tolerances) -> Admitted:
    """The entry's value to be committed again: bit for bit the same, and proven again."""
    header = peek(entry.data)
    verdict = None
    if header.kind == "rho":
        from somactl.core.verification import check_envelope

        verdict = check_envelope(entry.data, header, tolerances)
        if not verdict.valid:
            raise InvariantViolated(
                f"key {entry.key!r}: version {entry.version} is {verdict.status}: "
                f"{'; '.join(verdict.reasons)}",
                verdict=verdict,
                hint="get it, mend it, and commit it with `clamp`",
            )
    return Admitted(data=bytes(entry.data), header=header, verdict=verdict, moves=[])

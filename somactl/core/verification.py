"""From an envelope to its verdict, by the shortest way its layout allows."""

from __future__ import annotations

from somactl.core import envelope, invariants
from somactl.core.framing import Header
from somactl.core.verdict import Method, Tolerances, Verdict


def check_envelope(
    data: bytes | memoryview,
    header: Header,
    tolerances: Tolerances | None = None,
    *,
    method: Method = "certify",
    spectrum: bool = False,
) -> Verdict:
    """The verdict on the matrix in `data`, whose framing and digests are verified already (`header`).

    A hermitian payload is factored as it lies, without unpacking (docs/CERTIFICATE.md, A4); a factor is
    judged as F F^H. Other methods than `certify` need the full array. Raises EnvelopeError (NonFinite,
    BadPayload) where the payload does not decode.
    """
    tolerances = tolerances or Tolerances()
    if header.layout == "factor":
        return invariants.check_factor(envelope.factor(data, header), tolerances, spectrum=spectrum)
    if header.layout == "hermitian" and method == "certify":
        packed = envelope.packed(data, header)
        return invariants.check_packed(packed, header.shape[0], tolerances, spectrum=spectrum)
    matrix = envelope.decode(data, header)
    return invariants.check(matrix.array, tolerances, method=method, spectrum=spectrum)

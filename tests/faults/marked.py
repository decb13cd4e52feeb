"""Matrices that say which commit wrote them: every entry is the commit's marker.

A commit writes the same marker under all its keys, so that a torn one shows to every reader. They are of a
kind that is cached and needs no verdict. No numpy: the writer processes import this too.
"""

from __future__ import annotations

import struct

from somactl.core import framing
from somactl.core.framing import build_header, digest

SMALL = 8
"""Side of a matrix of 512 bytes."""
LARGE = 220
"""Side of one of 378 KiB. Three of them are more than any store sends together with the commit itself."""


def envelope(namespace: str, key: str, marker: int, side: int = SMALL) -> bytes:
    """The side x side matrix whose entries are all `marker`, written for that address."""
    payload = struct.pack("<d", marker) * (side * side)
    payload_digest = digest(payload)
    header = build_header(
        kind="sketch",
        dtype="float64",
        shape=(side, side),
        layout="full",
        compression="none",
        timestamp=0.0,
        namespace=namespace,
        key=key,
        payload_length=len(payload),
        payload_digest=payload_digest,
        canonical_digest=payload_digest,
    )
    return header + payload


def marker_of(data: bytes | memoryview, namespace: str, key: str) -> int:
    """The marker of an envelope that was written for this very address; raises EnvelopeError, ValueError."""
    header = framing.verify(data, namespace=namespace, key=key)
    payload = bytes(framing.payload(data, header))
    first = payload[:8]
    if payload != first * (len(payload) // 8):
        raise ValueError(f"the entries of {key!r} are not all the same")
    (marker,) = struct.unpack("<d", first)
    return int(marker)

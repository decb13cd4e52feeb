"""A stored value as HTTP shows it: what its headers say, and the same with the value as JSON."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

import msgspec

from somactl.report.base import SCHEMA_VERSION
from somactl.store.contract import Entry

ENVELOPE: Final = "application/vnd.somactl.envelope"
OCTETS: Final = "application/octet-stream"
JSON: Final = "application/json"
_SAFE: Final = "".join(map(chr, range(0x20, 0x7F)))


class Value(msgspec.Struct, kw_only=True):
    """One value. `value` is the envelope as base64; docs/ENVELOPE.md says what stands in it.

    version     of the commit that wrote it; comparable within one incarnation
    content     the digest of what the matrix is; envelope that of all bytes
    verdict     what was found when it was committed, and proven unless it is admitted_dark
    admitted_dark  an invariant would refuse it, and it was committed in dark mode
    served_by   the store that it was read from; age: where that is a cache, seconds since the store behind it
                was asked; degraded: that did not answer, and there may be a newer value
    """

    key: str
    version: int
    incarnation: str
    commit_id: str
    committed_at: float
    kind: str
    dtype: str
    shape: list[int]
    layout: str
    compression: str
    timestamp: float
    bytes: int
    content: str
    envelope: str
    verdict: dict[str, Any] | None
    admitted_dark: bool
    served_by: str
    age: float | None
    degraded: bool
    value: str
    schema_version: int = SCHEMA_VERSION


def value_of(entry: Entry, text: str) -> Value:
    header = entry.framed
    return Value(
        key=entry.key,
        version=entry.version,
        incarnation=entry.incarnation,
        commit_id=entry.commit_id,
        committed_at=entry.committed_at,
        kind=header.kind,
        dtype=header.dtype,
        shape=list(header.shape),
        layout=header.layout,
        compression=header.compression,
        timestamp=header.timestamp,
        bytes=len(entry.data),
        content=header.content,
        envelope=header.envelope,
        verdict=None if entry.verdict is None else dict(entry.verdict),
        admitted_dark=entry.admitted_dark,
        served_by=entry.served_by,
        age=entry.age,
        degraded=entry.degraded,
        value=text,
    )


def tag_of(entry: Entry) -> str:
    """The entity tag. It is weak: the same matrix may come in another layout, or compressed."""
    return f'W/"{entry.framed.content}"'


def headers_of(entry: Entry) -> dict[str, str]:
    """What a caller should know of a value, whatever form they take it in."""
    header = entry.framed
    said = {
        "etag": tag_of(entry),
        "cache-control": "private, no-cache",
        "vary": "Accept, Authorization",
        "x-content-type-options": "nosniff",
        "somactl-version": str(entry.version),
        "somactl-incarnation": entry.incarnation,
        "somactl-commit": entry.commit_id,
        "somactl-kind": header.kind,
        "somactl-content": header.content,
        "somactl-envelope": header.envelope,
        "somactl-served-by": entry.served_by,
        "somactl-degraded": "true" if entry.degraded else "false",
    }
    if entry.age is not None:
        said["age"] = str(int(entry.age))
        said["somactl-age"] = f"{entry.age:.3f}"
    if entry.verdict is not None:
        said["somactl-verdict"] = str(entry.verdict.get("status"))
    if entry.admitted_dark:
        said["somactl-admitted-dark"] = "true"
    # What no digest covers may have been changed behind somactl's back, and a line end would begin a header.
    return {name: quote(value, safe=_SAFE) for name, value in said.items()}

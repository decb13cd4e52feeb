"""One legacy value: which matrices it holds, and the envelopes that they become. No store, no source."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import xxhash

from somactl.core.framing import MAX_COMMIT_BYTES
from somactl.core.legacy_values import Site, find_matrices
from somactl.errors import InputRejected, InvariantViolated
from somactl.operations.admission import Admitted, Policy, admit, admit_bytes
from somactl.report import MigrationRow, Move, without_witness_vector
from somactl.source.contract import Value

if TYPE_CHECKING:
    import numpy as np

    from somactl.core.legacy_kind import Judged

_SHOWN = 2048
_DISTANCE_SLACK = 1.0 + 1e-9


@dataclass(frozen=True, slots=True)
class Selection:
    """Which nodes of a value are looked at, and what they are taken for.

    pointers   RFC 6901; none: the whole value
    discover   every node at any depth
    kind       auto | rho | sketch | matrix
    """

    pointers: tuple[str, ...] = ()
    discover: bool = False
    kind: str = "auto"


@dataclass(frozen=True, slots=True)
class Examined:
    """The rows of one value, in the order of its text, and an envelope for each of outcome `migrate`."""

    rows: list[MigrationRow]
    puts: Mapping[str, Admitted] = field(default_factory=dict)


def examine(value: Value, namespace: str, selection: Selection, policy: Policy) -> Examined:
    """What is to become of `value`, as far as it can be told without looking at the store.

    Never raises for what stands in the value: that is `rejected`, with the sentence that says why.
    """
    key = shown(value.key)
    if value.state == "other":
        return Examined([MigrationRow(key=key, outcome="not-a-matrix", reason=value.detail)])
    if value.state == "gone":
        return Examined([MigrationRow(key=key, outcome="not-a-matrix", reason="gone before it was read")])
    if value.state == "unreadable":
        return Examined([_rejection(key, "", "unreadable", "Unreadable", value.detail)])
    source = digest(value.data)
    found = find_matrices(value.data, pointers=selection.pointers, discover=selection.discover)
    if not found.sites:
        size = len(value.data)
        return Examined(
            [
                MigrationRow(
                    key=key, outcome="not-a-matrix", source=source, reason=found.reason, json_bytes=size
                )
            ]
        )
    rows: list[MigrationRow] = []
    puts: dict[str, Admitted] = {}
    size = 0
    for site in found.sites:
        row, admitted = _settle(value.key, site, source, namespace, selection.kind, policy)
        if admitted is not None:
            puts[row.target] = admitted
            size += row.bytes
            if size > MAX_COMMIT_BYTES:  # all of a value's matrices come in one commit
                why = f"its matrices take more as envelopes than the {MAX_COMMIT_BYTES} bytes of one commit"
                return Examined([_rejection(key, source, "", "LimitExceeded", why, len(value.data))])
        rows.append(row)
    return Examined(rows, puts)


def shown(key: str) -> str:
    """The key as a report shows it: bytes that are no UTF-8, and lone surrogates, escaped."""
    try:
        key.encode("utf-8")
    except UnicodeEncodeError:
        key = key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return key if len(key) <= _SHOWN else f"{key[:_SHOWN]}… ({len(key)} characters, {digest(key.encode())})"


def digest(data: bytes) -> str:
    """What tells that a value of the source is still the one that was read."""
    return xxhash.xxh3_128_hexdigest(data)


def _settle(
    key: str, site: Site, source: str, namespace: str, kind: str, policy: Policy
) -> tuple[MigrationRow, Admitted | None]:
    from somactl.core.legacy_kind import judge

    row = MigrationRow(
        key=shown(key),
        outcome="rejected",
        source=source,
        pointer=site.pointer,
        form=site.form,
        json_bytes=len(site.text),
    )
    try:
        judged = judge(key, site, kind=kind)
        row.target, row.kind, row.dtype = judged.target, judged.kind, judged.dtype
        row.shape = list(judged.shape)
        admitted = _admit(judged, namespace, policy)
    except InvariantViolated as error:
        row.reason, row.why = f"{type(error).__name__}, {error.verdict.status}", error.message
        row.verdict = replace(without_witness_vector(error.verdict), blas="")  # two machines, one report
        return row, None
    except InputRejected as error:
        row.reason, row.why = type(error).__name__, error.message
        return row, None
    defect = _difference_of_copy(admitted, judged)
    if defect is not None:  # a bug of ours, and the value stays where it is
        row.reason, row.why = "CopyDiffers", f"the envelope for {row.target!r} {defect}"
        return row, None
    header = admitted.header
    row.outcome, row.why = "migrate", judged.reason
    row.kind, row.dtype, row.content = header.kind, header.dtype, header.content
    row.bytes, row.moves = header.total_length, admitted.moves
    return row, admitted


def _admit(judged: Judged, namespace: str, policy: Policy) -> Admitted:
    target = judged.target
    if judged.envelope is None:
        assert judged.array is not None
        return admit(judged.array, target, namespace, policy, time.time(), kind=judged.kind)
    named = replace(policy, kind=judged.kind)
    return admit_bytes(judged.envelope, f"key {target!r}", target, namespace, named, time.time())


def _difference_of_copy(admitted: Admitted, judged: Judged) -> str | None:
    """`difference` between what the envelope decodes to and what the JSON said."""
    from somactl.core.envelope import deserialize_matrix

    wanted = judged.array
    if wanted is None:
        assert judged.envelope is not None
        wanted = deserialize_matrix(judged.envelope).array
    return difference(deserialize_matrix(admitted.data).array, wanted, admitted.moves)


def difference(stored: np.ndarray, wanted: np.ndarray, moves: Sequence[Move]) -> str | None:
    """What keeps `stored` from being `wanted` bit for bit; None where nothing does.

    Where it was moved, it may be as far off as its moves say together (Frobenius norm, triangle inequality).
    """
    import numpy as np

    if stored.shape != wanted.shape:
        return f"has shape {stored.shape}, not {wanted.shape}"
    if not moves:
        same = stored.dtype == wanted.dtype and _same_bits(stored, wanted)
        return None if same else "does not hold, bit for bit, what the JSON says"
    allowed = sum(move.distance for move in moves) * _DISTANCE_SLACK
    distance = float(np.linalg.norm(stored.astype(np.complex128) - wanted))
    return None if distance <= allowed else f"is {distance:.3e} from what the JSON says, not {allowed:.3e}"


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    import numpy as np

    words = np.uint64 if a.itemsize % 8 == 0 else np.uint32
    return bool(np.array_equal(np.ascontiguousarray(a).view(words), np.ascontiguousarray(b).view(words)))


def _rejection(key: str, source: str, form: str, reason: str, why: str, json_bytes: int = 0) -> MigrationRow:
    return MigrationRow(
        key=key, outcome="rejected", source=source, form=form, reason=reason, why=why, json_bytes=json_bytes
    )

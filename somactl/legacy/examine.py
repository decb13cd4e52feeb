"""One legacy value: which matrices it holds, and the envelopes that they become. No store, no source."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import xxhash

from somactl.core.framing import MAX_COMMIT_BYTES
from somactl.core.portions import in_portions
from somactl.core.verdict import Verdict
from somactl.errors import InputRejected, InvariantViolated
from somactl.legacy.request import Selection
from somactl.legacy.source.contract import Value
from somactl.legacy.values import Site, find_matrices
from somactl.operations.admission import Admitted, Policy, Proven, admit_bytes, encode_proven, prove
from somactl.report import MigrationRow, Move

if TYPE_CHECKING:
    import numpy as np

    from somactl.legacy.kinds import Judged

_SHOWN = 2048
_TOGETHER_BYTES = 1 << 20
"""Of JSON. The arrays of so much are kept at a time, or that of one larger matrix."""
_DISTANCE_SLACK = 1.0 + 1e-9


@dataclass(frozen=True, slots=True)
class Examined:
    """The rows of one value, in the order of its text, and an envelope for each of outcome `migrate`."""

    rows: list[MigrationRow]
    puts: Mapping[str, Admitted] = field(default_factory=dict)
    seconds: float = 0.0


def examine(value: Value, namespace: str, selection: Selection, policy: Policy) -> Examined:
    """What is to become of `value`, as far as it can be told without looking at the store.

    Never raises for what stands in the value: that is `rejected`, with the sentence that says why.
    """
    (examined,) = examine_each([value], namespace, selection, policy)
    return examined


def examine_each(
    values: Iterable[Value], namespace: str, selection: Selection, policy: Policy
) -> Iterator[Examined]:
    """`examine` of each value, in order.

    Some are taken through each step together, so that small matrices find its code in the processor's
    cache: one after the other through all the steps, they take a tenth longer.
    """
    together: list[tuple[_Value, list[_Matrix]]] = []
    size = 0
    for value in values:
        together.append(_open(value, selection))
        size += len(value.data)
        if size >= _TOGETHER_BYTES:
            yield from _resolved(together, namespace, selection.kind, policy)
            together, size = [], 0
    yield from _resolved(together, namespace, selection.kind, policy)


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


@dataclass(slots=True)
class _Value:
    """A value on its way.

    row     where it holds no matrix: what it is instead
    bytes, seconds   what its envelopes take, and its examination took, until now
    """

    value: Value
    row: MigrationRow | None = None
    bytes: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _Matrix:
    """One matrix of a value on its way. Until the last step is done, its row says that it is rejected.

    The value does not know its matrices: a circle would keep all of it in memory until the collector comes.
    """

    of: _Value
    site: Site
    row: MigrationRow
    judged: Judged | None = None
    proven: Proven | None = None
    admitted: Admitted | None = None


def _open(value: Value, selection: Selection) -> tuple[_Value, list[_Matrix]]:
    """Find the nodes of `value` that look like matrices."""
    began = time.perf_counter()
    opened = _Value(value)
    matrices: list[_Matrix] = []
    key = shown(value.key)
    if value.state == "other":
        opened.row = MigrationRow(key=key, outcome="not-a-matrix", reason=value.detail)
    elif value.state == "gone":
        opened.row = MigrationRow(key=key, outcome="not-a-matrix", reason="gone before it was read")
    elif value.state == "unreadable":
        opened.row = _rejection(key, "", "unreadable", "Unreadable", value.detail)
    else:
        matrices = _find(opened, key, selection)
    opened.seconds = time.perf_counter() - began
    return opened, matrices


def _find(opened: _Value, key: str, selection: Selection) -> list[_Matrix]:
    data = opened.value.data
    source = digest(data)
    found = find_matrices(data, pointers=selection.pointers, discover=selection.discover)
    if not found.sites:
        opened.row = MigrationRow(
            key=key, outcome="not-a-matrix", source=source, reason=found.reason, json_bytes=len(data)
        )
    return [
        _Matrix(
            opened,
            site,
            MigrationRow(
                key=key,
                outcome="rejected",
                source=source,
                pointer=site.pointer,
                form=site.form,
                json_bytes=len(site.text),
            ),
        )
        for site in found.sites
    ]


def _resolved(
    together: Sequence[tuple[_Value, list[_Matrix]]], namespace: str, kind: str, policy: Policy
) -> Iterator[Examined]:
    """Take all matrices through the steps, and finish each value."""
    steps = (
        partial(_read, kind=kind),
        partial(_prove, policy=policy),
        partial(_encode, namespace=namespace, policy=policy),
        _compare,
    )
    every = (each for _, matrices in together for each in matrices)
    for portion in in_portions(every, lambda each: len(each.site.text), _TOGETHER_BYTES):
        for step in steps:
            for each in portion:
                _take(each, step)
        for each in portion:
            each.judged = each.proven = None  # their arrays are needed no more
    return (_examined(opened, matrices) for opened, matrices in together)


def _examined(opened: _Value, matrices: Sequence[_Matrix]) -> Examined:
    row, seconds = opened.row, opened.seconds
    if opened.bytes > MAX_COMMIT_BYTES:  # all of a value's matrices come in one commit
        why = f"its matrices take more as envelopes than the {MAX_COMMIT_BYTES} bytes of one commit"
        source, size = matrices[0].row.source, len(opened.value.data)
        row = _rejection(shown(opened.value.key), source, "", "LimitExceeded", why, size)
    if row is not None:
        return Examined([row], seconds=seconds)
    puts = {each.row.target: each.admitted for each in matrices if each.admitted is not None}
    return Examined([each.row for each in matrices], puts, seconds)


def _take(matrix: _Matrix, step: Callable[[_Matrix], None]) -> None:
    """Through one step, unless an earlier one has rejected it, or its value as a whole."""
    row = matrix.row
    if row.reason or matrix.of.bytes > MAX_COMMIT_BYTES:
        return
    began = time.perf_counter()
    try:
        step(matrix)
    except InvariantViolated as error:
        row.reason, row.why = f"{type(error).__name__}, {error.verdict.status}", error.message
        row.verdict = _shown_verdict(error.verdict)
    except InputRejected as error:
        row.reason, row.why = type(error).__name__, error.message
    matrix.of.seconds += time.perf_counter() - began


def _shown_verdict(verdict: Verdict) -> Verdict:
    """Equal on two machines, so that their reports are."""
    return replace(verdict.without_vector(), blas="")


def _read(matrix: _Matrix, kind: str) -> None:
    from somactl.legacy.kinds import classify

    row = matrix.row
    matrix.judged = judged = classify(matrix.of.value.key, matrix.site, kind=kind)
    row.target, row.kind, row.dtype = judged.target, judged.kind, judged.dtype
    row.shape = list(judged.shape)


def _prove(matrix: _Matrix, policy: Policy) -> None:
    judged = matrix.judged
    assert judged is not None
    if judged.array is not None:
        matrix.proven = prove(judged.array, judged.target, policy, kind=judged.kind)


def _encode(matrix: _Matrix, namespace: str, policy: Policy) -> None:
    judged, proven, now = matrix.judged, matrix.proven, time.time()
    assert judged is not None
    target = judged.target
    if proven is not None:
        matrix.admitted = encode_proven(proven, target, namespace, policy, now, kind=judged.kind)
    else:
        assert judged.envelope is not None
        named = replace(policy, kind=judged.kind)
        matrix.admitted = admit_bytes(judged.envelope, f"key {target!r}", target, namespace, named, now)


def _compare(matrix: _Matrix) -> None:
    """Decode the envelope again: only what it then says, bit for bit as the JSON does, is migrated."""
    judged, admitted, row = matrix.judged, matrix.admitted, matrix.row
    assert judged is not None
    assert admitted is not None
    defect = _difference_of_copy(admitted, judged)
    if defect is not None:  # a bug of ours, and the value stays where it is
        row.reason, row.why = "CopyDiffers", f"the envelope for {row.target!r} {defect}"
        matrix.admitted = None
        return
    header = admitted.header
    row.outcome, row.why = "migrate", judged.reason
    row.kind, row.dtype, row.content = header.kind, header.dtype, header.content
    row.bytes, row.moves = header.total_length, admitted.moves
    if admitted.dark and admitted.verdict is not None:
        row.dark, row.verdict = True, _shown_verdict(admitted.verdict)
    matrix.of.bytes += row.bytes


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

"""Encoding and decoding against what numpy offers: `np.save`, `np.load` and `np.triu_indices` packing.

Ours does more than each: it writes and checks a header and two digests, searches for NaN and Inf, and proves
that a `hermitian` matrix is one. Everything is measured in fresh and in reused memory (`large_buffers`).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from matrices import density
from measure import Effort, Memory, Row, Side, interleave, local, ratio
from numpy.typing import NDArray

from somactl.core.envelope import deserialize_matrix, serialize_matrix

N = 1024


def _side(name: str, run: Callable[[], object]) -> Side:
    return local(name, lambda _: run(), inner=4, threaded=False)


def _encode(rho: NDArray[Any], layout: str) -> bytes:
    return serialize_matrix(rho, key="bench", layout=layout)


def _decode(data: bytes) -> NDArray[Any]:
    return deserialize_matrix(data).array


def _save(rho: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, rho)
    return out.getvalue()


def _load(data: bytes) -> NDArray[Any]:
    loaded: NDArray[Any] = np.load(io.BytesIO(data))
    return loaded


def _pack(rho: NDArray[Any]) -> bytes:
    return rho[np.triu_indices(N)].tobytes()


def _unpack(data: bytes) -> NDArray[Any]:
    out = np.empty((N, N))
    upper = np.triu_indices(N)
    out[upper] = np.frombuffer(data)
    out.T[upper] = out[upper]
    return out


def size(_effort: Effort) -> list[Row]:
    rho = density(N)
    share = round(len(_encode(rho, "hermitian")) / rho.nbytes, 4)
    measure = f"hermitian layout: whole envelope / full array, n = {N}"
    return [Row("size-hermitian", measure, share, share, share, "<=", 0.5005, digits=4, unit="")]


def codec(memory: Memory, effort: Effort) -> list[Row]:
    """Both layouts, there and back; `memory` is what `large_buffers` has been told."""
    rho = density(N)
    full, hermitian, saved, packed = _encode(rho, "full"), _encode(rho, "hermitian"), _save(rho), _pack(rho)
    for restored in (_decode(full), _decode(hermitian), _load(saved), _unpack(packed)):
        assert np.array_equal(restored, rho)
    save, encode_full = interleave(
        [_side("np.save", lambda: _save(rho)), _side("encode", lambda: _encode(rho, "full"))], effort
    )
    load, decode_full = interleave(
        [_side("np.load", lambda: _load(saved)), _side("decode", lambda: _decode(full))], effort
    )
    pack, encode, alone = interleave(
        [
            _side("np.triu_indices pack", lambda: _pack(rho)),
            _side("encode", lambda: _encode(rho, "hermitian")),
            _side("packing alone", lambda: hermitian.pack(rho)),
        ],
        effort,
    )
    unpack, decode = interleave(
        [
            _side("np.triu_indices unpack", lambda: _unpack(packed)),
            _side("decode", lambda: _decode(hermitian)),
        ],
        effort,
    )
    where = f"n = {N}, {memory} memory"
    compared = [
        ("encode-full", "full encode with digests vs `np.save` to memory", save, encode_full, 2.0),
        ("decode-full", "full decode, digests checked, vs `np.load` from memory", load, decode_full, 2.0),
        ("encode-hermitian", "hermitian encode vs `np.triu_indices` packing", pack, encode, 8.0),
        ("pack-hermitian", "the packing in it alone vs `np.triu_indices` packing", pack, alone, None),
        ("decode-hermitian", "hermitian decode vs `np.triu_indices` unpacking", unpack, decode, 2.0),
    ]
    return [
        ratio(f"{name}-{memory}", f"{measure}, {where}", theirs, ours, sense=">=" if goal else "", goal=goal)
        for name, measure, theirs, ours, goal in compared
    ]


#: the names of the rows of `codec`, without the kind of memory
ROWS = ("encode-full", "decode-full", "encode-hermitian", "pack-hermitian", "decode-hermitian")

"""Matrices to envelopes and back: nothing is lost, and nothing wrong goes in or comes out."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from somactl.core import byte_shuffle, envelope, framing, hermitian as hermitian_module
from somactl.core.envelope import decode, deserialize_matrix, encode, factor, packed, serialize_matrix
from somactl.core.framing import to_text, verify
from somactl.core.lapack import flapack
from somactl.errors import (
    BadHeader,
    BadMagic,
    BadPayload,
    EnvelopeError,
    InputRejected,
    InvalidJson,
    InvalidName,
    LimitExceeded,
    NonFinite,
    UnsupportedVersion,
    UsageError,
    WrongAddress,
)

DTYPES = {"float64": "f8", "complex128": "c16", "float32": "f4", "complex64": "c8"}
LAPACK = {"float64": "d", "complex128": "z", "float32": "s", "complex64": "c"}


def hermitian(n: int, dtype: str = "float64", seed: int = 0) -> np.ndarray:
    random = np.random.default_rng([n, seed])
    m = random.normal(size=(n, n)) + 1j * random.normal(size=(n, n))
    h = (m + m.conj().T) / 2
    return (h if dtype.startswith("complex") else h.real).astype(dtype)


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    """Every stored dtype in either byte order, any memory order, any stride, read-only or not."""
    dtype = np.dtype(draw(st.sampled_from("<>")) + draw(st.sampled_from(sorted(DTYPES.values()))))
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))
    elements = hnp.from_dtype(dtype, allow_nan=False, allow_infinity=False)
    array = draw(hnp.arrays(dtype, shape, elements=elements))
    if draw(st.booleans()):
        array = np.asfortranarray(array)
    step = draw(st.sampled_from([1, 2, -1]))
    if step == 2:
        wide = np.zeros((2 * shape[0], 2 * shape[1]), dtype)
        wide[::2, ::2] = array
        array = wide[::2, ::2]
    elif step == -1:
        array = np.ascontiguousarray(array[::-1, ::-1])[::-1, ::-1]
    array.flags.writeable = draw(st.booleans())
    return array


@given(matrices(), st.sampled_from([None, "zstd"]), st.booleans())
def test_round_trip(array: np.ndarray, compression: str | None, as_text: bool) -> None:
    before = array.tobytes()
    data = serialize_matrix(array, key="k", kind="matrix", compression=compression)
    matrix = deserialize_matrix(to_text(data) if as_text else data, namespace="default", key="k")
    assert matrix.array.dtype == array.dtype.newbyteorder("<")
    assert matrix.array.tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()
    assert matrix.array.flags.c_contiguous
    assert not matrix.inexact
    assert array.tobytes() == before


@st.composite
def hermitian_matrices(draw: st.DrawFn) -> np.ndarray:
    m = draw(matrices())
    m = m[: min(m.shape), : min(m.shape)].astype(m.dtype.newbyteorder("<"))
    with np.errstate(all="ignore"):
        h = (m / 2 + m.conj().T / 2 + 0).astype(m.dtype)  # + 0: an imaginary -0.0 would make it `full`
    return draw(st.sampled_from([np.ascontiguousarray, np.asfortranarray]))(h)


@given(hermitian_matrices(), st.sampled_from([None, "zstd"]))
def test_hermitian_round_trip(array: np.ndarray, compression: str | None) -> None:
    found = encode(array, key="k", compression=compression)
    full = encode(array, key="k", layout="full", timestamp=7.0)
    assert found.header.layout == ("hermitian" if len(array) > 1 else "full")
    assert found.header.content == full.header.content
    assert found.header.envelope != full.header.envelope
    assert deserialize_matrix(found.data).array.tobytes() == array.tobytes()
    assert verify(found.data) == found.header


@given(matrices(), st.data())
def test_any_bit_flip_is_detected(array: np.ndarray, data: st.DataObject) -> None:
    compression = data.draw(st.sampled_from([None, "zstd"]))
    whole = bytearray(serialize_matrix(array, key="k", kind="matrix", compression=compression))
    position = data.draw(st.integers(0, len(whole) * 8 - 1))
    whole[position // 8] ^= 1 << position % 8
    with pytest.raises(EnvelopeError):
        deserialize_matrix(whole)


@pytest.mark.parametrize("dtype", DTYPES)
def test_hermitian_payload_is_lapacks(dtype: str) -> None:
    for n in [*range(1, 40), 64, 65, 127, 128, 200, 257]:
        a = hermitian(n, dtype)
        theirs, info = getattr(flapack(), LAPACK[dtype] + "trttf")(a.T, transr="N", uplo="L")
        assert info == 0
        ours = hermitian_module.pack(a)
        np.testing.assert_array_equal(ours, theirs)
        assert hermitian_module.unpack(ours, n).tobytes() == a.tobytes()
        np.testing.assert_array_equal(hermitian_module.diagonal(ours, n), np.diagonal(a))


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_bit_off_is_not_hermitian(dtype: str) -> None:
    """Every entry but the real diagonal has a partner: change one bit, and the layout becomes full."""
    random = np.random.default_rng(1)
    for n in (2, 3, 8, 70, 131):
        a = hermitian(n, dtype)
        assert hermitian_module.is_hermitian(a)
        for _ in range(20):
            i, j = random.choice(n, 2, replace=False)
            b = a.copy()
            part = b.imag if b.dtype.kind == "c" and random.random() < 0.5 else b.real
            part[i, j] = np.nextafter(part[i, j], np.inf, dtype=part.dtype)
            assert not hermitian_module.is_hermitian(b)
            encoded = encode(b, key="k")
            assert encoded.header.layout == "full"
            assert deserialize_matrix(encoded.data).array.tobytes() == b.tobytes()


def test_signs_of_zero_are_kept() -> None:
    symmetric = np.array([[0.0, -0.0], [-0.0, -0.0]])
    asymmetric = np.array([[0.0, -0.0], [0.0, 0.0]])
    assert encode(symmetric, key="k").header.layout == "hermitian"
    assert encode(asymmetric, key="k").header.layout == "full"
    real_valued = symmetric + 0j
    assert encode(real_valued, key="k").header.layout == "hermitian"
    for array in (symmetric, asymmetric, real_valued, real_valued.conj()):
        assert deserialize_matrix(serialize_matrix(array, key="k")).array.tobytes() == array.tobytes()


@pytest.mark.parametrize("where", [(0, 0), (3, 3), (1, 3), (3, 1), (2, 2)])
def test_imaginary_minus_zero_is_not_hermitian(where: tuple[int, int]) -> None:
    a = hermitian(4).astype("complex128")
    a.imag[where] = -0.0
    assert encode(a, key="k").header.layout == "full"
    assert deserialize_matrix(serialize_matrix(a, key="k")).array.tobytes() == a.tobytes()


def test_imaginary_diagonal_is_not_hermitian() -> None:
    a = hermitian(4, "complex128")
    a[2, 2] += 1e-300j
    assert encode(a, key="k").header.layout == "full"
    with pytest.raises(InputRejected, match="bit for bit"):
        encode(a, key="k", layout="hermitian")


def test_layouts_by_kind() -> None:
    a = hermitian(4)
    assert encode(a, key="k", kind="matrix").header.layout == "hermitian"
    assert encode(a, key="k", kind="sketch").header.layout == "full"
    assert encode(a[:1, :1], key="k").header.layout == "full"
    assert encode(a[:1, :1], key="k", layout="hermitian").header.layout == "hermitian"
    with pytest.raises(InputRejected, match="a rho is square"):
        encode(a[:2], key="k")
    with pytest.raises(InputRejected, match="a sketch has layout full"):
        encode(a, key="k", kind="sketch", layout="hermitian")
    with pytest.raises(InputRejected, match="square matrices"):
        encode(a[:2], key="k", layout="hermitian")


def test_half_the_bytes() -> None:
    a = hermitian(512)
    ratio = len(serialize_matrix(a, key="k")) / a.nbytes
    assert 0.5 < ratio < 0.502


# Decoding without a copy, packed and factored forms


def test_full_payload_is_not_copied() -> None:
    data = serialize_matrix(hermitian(8), key="k", layout="full")
    array = deserialize_matrix(data).array
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))
    assert not array.flags.writeable
    mutable = deserialize_matrix(bytearray(data)).array
    assert not mutable.flags.writeable
    assert verify(data).header_length % 64 == 0


@pytest.mark.parametrize("offset", range(8))
def test_unaligned_buffers_are_copied(offset: int) -> None:
    a = hermitian(8)
    data = b"x" * offset + serialize_matrix(a, key="k", layout="full")
    array = deserialize_matrix(memoryview(data)[offset:]).array
    assert array.flags.aligned
    assert array.tobytes() == a.tobytes()


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_packed(compression: str | None) -> None:
    a = np.round(hermitian(9, "complex128"), 1) + 0  # rounding leaves -0.0 behind
    data = serialize_matrix(a, key="k", compression=compression)
    found = packed(data, verify(data))
    assert found.shape == (45,)
    assert not found.flags.writeable
    np.testing.assert_array_equal(found, hermitian_module.pack(a))
    full = serialize_matrix(a, key="k", layout="full")
    with pytest.raises(BadHeader, match="layout full, not hermitian"):
        packed(full, verify(full))


def test_packed_can_be_factored() -> None:
    b = hermitian(7, "complex128")
    a = b @ b.conj().T + np.eye(7)
    a = (a + a.conj().T) / 2
    data = serialize_matrix(a, key="k")
    root, info = flapack().zpftrf(7, packed(data, verify(data)), transr="N", uplo="L")
    assert info == 0
    lower = np.tril(flapack().ztfttr(7, root, transr="N", uplo="L")[0])
    np.testing.assert_allclose(lower @ lower.conj().T, a.T, rtol=1e-12)


def test_factor() -> None:
    f = np.array([[1.0, 2j], [0.5, -1.0], [0.0, 0.25j]]) / 3
    data = serialize_matrix(f, key="k", layout="factor")
    matrix = deserialize_matrix(data)
    assert matrix.header is not None
    assert matrix.header.shape == (3, 2)
    assert matrix.inexact
    np.testing.assert_array_equal(factor(data, verify(data)), f)
    np.testing.assert_allclose(matrix.array, f @ f.conj().T, rtol=1e-15)
    np.testing.assert_array_equal(matrix.array, matrix.array.conj().T)
    assert matrix.array is matrix.array
    product = matrix.array.copy()
    assert encode(product, key="k").header.content != matrix.header.content
    with pytest.raises(BadHeader, match="not factor"):
        factor(serialize_matrix(product, key="k"), verify(serialize_matrix(product, key="k")))


def test_factor_with_a_huge_product() -> None:
    matrix = deserialize_matrix(serialize_matrix(np.zeros((100_000, 1)), key="k", layout="factor"))
    with pytest.raises(LimitExceeded, match="80000000000 bytes"):
        _ = matrix.array


# What goes in


@pytest.mark.parametrize(
    ("given_dtype", "stored"),
    [
        *((d, "float64") for d in ("i1", "u1", "i2", "u2", ">i4", "u4", "i8", ">u8", "f8", "g")),
        *((d, "float32") for d in ("f2", ">f2", "f4")),
        ("c8", "complex64"),
        *((d, "complex128") for d in (">c16", "G")),
    ],
)
def test_dtypes_by_default(given_dtype: str, stored: str) -> None:
    array = np.array([[1, 2], [3, 100]], dtype=given_dtype)
    found = encode(array, key="k")
    assert found.header.dtype == stored
    assert (found.rounding_error, found.rounding_frobenius) == (0.0, 0.0)
    np.testing.assert_array_equal(deserialize_matrix(found.data).array, array)


@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**64 - 1])
def test_inexact_integers_are_refused(value: int) -> None:
    with pytest.raises(InputRejected, match=rf"'k' holds {value} at row 1, column 0.*exactly"):
        encode(np.array([[0, 1], [value, 0]], dtype="u8" if value >= 2**63 else "i8"), key="k")


@pytest.mark.parametrize("value", [2**53, -(2**63), 2**62, 2**63, 2**64 - 2**11])
def test_exact_large_integers_go_in(value: int) -> None:
    dtype = "u8" if value >= 2**63 else "i8"
    data = serialize_matrix(np.array([[value]], dtype=dtype), key="k")
    assert int(deserialize_matrix(data).array[0, 0]) == value


def test_long_doubles_only_where_exact() -> None:
    if np.finfo("g").eps == np.finfo("f8").eps:
        return  # this machine's long double is a double
    third = np.array([[np.longdouble(1) / 3]])
    with pytest.raises(InputRejected, match="does not hold exactly"):
        encode(third, key="k")
    asked = encode(third, key="k", dtype="float64")
    assert 0 < asked.rounding_error < 2.0**-54
    with pytest.raises(NonFinite, match="beyond the range of float64"):
        encode(np.array([[np.longdouble(10) ** 400]]), key="k", dtype="float64")


def test_rounding_is_reported() -> None:
    a = hermitian(50, "complex128")
    found = encode(a, key="k", dtype="complex64")
    stored = deserialize_matrix(found.data).array
    assert stored.dtype == np.complex64
    assert found.header.layout == "hermitian"
    assert found.rounding_error == np.abs(stored - a).max() > 0
    assert found.rounding_frobenius == pytest.approx(np.linalg.norm(stored - a), rel=1e-12)
    exact = encode(np.round(a * 4), key="k", dtype="complex64")
    assert (exact.rounding_error, exact.rounding_frobenius) == (0.0, 0.0)
    wider = encode(a.real, key="k", dtype="complex128")
    assert (wider.header.dtype, wider.rounding_error) == ("complex128", 0.0)


def test_overflow_is_refused() -> None:
    with pytest.raises(NonFinite, match="beyond the range of float32 at row 0, column 1"):
        encode(np.array([[1.0, 1e39], [1.0, 1.0]]), key="k", dtype="float32")


def test_tiny_numbers_become_zero_and_say_so() -> None:
    found = encode(np.array([[1e-60]]), key="k", dtype="float32")
    assert found.rounding_error == 1e-60


@pytest.mark.parametrize("array", [np.full((300, 400), 1e308), np.full((300, 400), -1e38, dtype="f4")])
def test_sums_may_overflow(array: np.ndarray) -> None:
    data = serialize_matrix(array, key="k", kind="matrix")
    assert deserialize_matrix(data).array.tobytes() == array.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 4), (1100, 1200)])
def test_non_finite_is_refused(bad: float, dtype: str, shape: tuple[int, int]) -> None:
    array = np.ones(shape, dtype)
    array[-1, -2] = complex(1, bad) if dtype.startswith("complex") else bad
    where = f"at row {shape[0] - 1}, column {shape[1] - 2}"
    with pytest.raises(NonFinite, match=where):
        encode(array, key="k", kind="matrix")
    if dtype == "float64":
        for form in (np.asfortranarray(array), array.astype(">f8")):
            with pytest.raises(NonFinite, match=where):
                encode(form, key="k", kind="matrix", dtype="float32")


@pytest.mark.parametrize(
    ("array", "says"),
    [
        ([[True, False], [False, True]], "dtype bool"),
        ([["0.5"]], "dtype <U3"),
        ([[None]], "dtype object"),
        ([[1, 2], [3]], "no array of numbers"),
        ([[2**70]], "dtype object"),
        ([1.0, 2.0], "1 dimensions"),
        (3.0, "0 dimensions"),
        ([[[1.0]]], "3 dimensions"),
        ([[]], "empty"),
        (np.zeros((0, 4)), "0 x 4"),
        (np.ma.masked_array([[1.0]], mask=[[True]]), "masked"),
        (np.array([["2020-01-01"]], dtype="M8[D]"), "datetime64"),
        (np.zeros((2, 2), dtype=[("a", "f8")]), "dtype"),
    ],
)
def test_no_matrix_of_numbers(array: Any, says: str) -> None:
    with pytest.raises(InputRejected, match=says) as caught:
        encode(array, key="the key")
    assert "'the key'" in caught.value.message


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"version": 2}, UnsupportedVersion),
        ({"dtype": "float16"}, UsageError),
        ({"layout": "packed"}, UsageError),
        ({"compression": "gzip"}, UsageError),
        ({"timestamp": float("nan")}, UsageError),
        ({"kind": "tensor"}, InvalidName),
        ({"key": "a\nb"}, InvalidName),
        ({"key": "\ud800"}, InvalidName),
        ({"namespace": "a b"}, InvalidName),
    ],
)
def test_arguments(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        encode(np.eye(2), **{"key": "k", **options})


def test_complex_is_not_stored_as_real() -> None:
    with pytest.raises(InputRejected, match="complex") as caught:
        encode(np.eye(2) * 1j, key="k", dtype="float32")
    assert caught.value.hint == "use dtype complex64"


# Limits


def _zeros(rows: int, columns: int, dtype: str = "f8") -> np.ndarray:
    """Any shape without its memory."""
    return np.broadcast_to(np.zeros((), dtype), (rows, columns))


@pytest.mark.parametrize(
    ("array", "options", "hint"),
    [
        (
            _zeros(8000, 8000),
            {"layout": "full"},
            "layout full with dtype float32 or layout hermitian with dtype float64",
        ),
        (_zeros(8192, 8192), {}, "layout hermitian with dtype float32 would fit"),
        (_zeros(9000, 9000, "c16"), {}, "a factor with at most 1864 columns would"),
        (_zeros(6000, 6000), {"kind": "sketch"}, "layout full with dtype float32 would fit"),
        (_zeros(1 << 29, 1 << 29), {"kind": "matrix"}, "make it fit; split it over several keys"),
        (_zeros(1 << 20, 1 << 10), {"kind": "matrix"}, "split it over several keys"),
    ],
)
def test_too_large(array: np.ndarray, options: dict[str, Any], hint: str) -> None:
    """Refused without touching the numbers: these arrays would not fit into memory."""
    with pytest.raises(LimitExceeded, match="an envelope has room for") as caught:
        encode(array, key="k", **options)
    assert caught.value.hint is not None
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("layout", "dtype", "n"),
    [
        ("hermitian", "float64", 8191),
        ("hermitian", "float32", 11584),
        ("full", "float64", 5792),
        ("full", "float32", 8191),
    ],
)
def test_largest_matrices(layout: str, dtype: str, n: int) -> None:
    """The sizes that the page states, whatever the names."""
    room = framing.MAX_ENVELOPE_BYTES - framing.MAX_HEADER_BYTES
    assert framing.raw_length((n, n), dtype, layout) <= room
    assert framing.raw_length((n + 1, n + 1), dtype, layout) > framing.MAX_ENVELOPE_BYTES - 128


def test_asymmetric_array_too_large_for_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "MAX_ENVELOPE_BYTES", 128 + 300)
    assert encode(hermitian(8), key="k").header.layout == "hermitian"
    with pytest.raises(LimitExceeded, match="layout full"):
        encode(np.arange(64.0).reshape(8, 8), key="k")


# Compression


def test_compression_pays_or_is_dropped() -> None:
    structured = encode(np.eye(64), key="k", compression="zstd")
    assert structured.header.compression == "zstd"
    assert len(structured.data) < 1024
    assert encode(np.array([[0.1]]), key="k", compression="zstd").header.compression == "none"


def test_decompression_is_bounded() -> None:
    stored = memoryview(zstandard.ZstdCompressor().compress(b"\0" * (1 << 26)))
    with pytest.raises(BadPayload, match="does not state the 64 bytes"):
        byte_shuffle.decompress(stored, 64, np.dtype("f8"), "k")


def test_large_window_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj().compress(b"")
    frame += zstandard.ZstdCompressor(compression_params=parameters).compress(b"\0" * 64)
    with pytest.raises(BadPayload):
        byte_shuffle.decompress(memoryview(frame), 64, np.dtype("f8"), "k")


@settings(max_examples=50)
@given(hnp.arrays("f8", (4, 6), elements=st.floats(-1, 1)), st.sampled_from(["f4", "f8", "c8", "c16"]))
def test_shuffle_round_trip(array: np.ndarray, dtype: str) -> None:
    array = array.astype(dtype)
    stored = byte_shuffle.compress(array)
    back = byte_shuffle.decompress(memoryview(stored), array.nbytes, array.dtype, "k")
    assert back.tobytes() == array.tobytes()


# What comes out of bytes that are no envelope


def test_legacy_json() -> None:
    matrix = deserialize_matrix("[[0.5, 0.25], [0.25, 0.5]]")
    assert matrix.header is None
    assert not matrix.inexact
    np.testing.assert_array_equal(matrix.array, [[0.5, 0.25], [0.25, 0.5]])
    np.testing.assert_array_equal(deserialize_matrix(b" \n[[1.0]]").array, [[1.0]])
    with pytest.raises(InvalidJson):
        deserialize_matrix(b"[[1.0], [2.0, 3.0]]")
    with pytest.raises(InvalidJson):
        deserialize_matrix(b'{"a": 1}')


def test_neither_envelope_nor_text() -> None:
    with pytest.raises(BadMagic, match="neither"):
        deserialize_matrix(b"\x93NUMPY\x01\x00")
    with pytest.raises(EnvelopeError):
        deserialize_matrix("")


def test_wrong_address() -> None:
    data = serialize_matrix(np.eye(2), key="a")
    with pytest.raises(WrongAddress):
        deserialize_matrix(data, key="b")
    with pytest.raises(WrongAddress):
        deserialize_matrix(to_text(data), namespace="other")


def test_decode_trusts_the_frame_and_checks_the_numbers() -> None:
    data = serialize_matrix(hermitian(5), key="k")
    np.testing.assert_array_equal(decode(data, verify(data)).array, hermitian(5))


def test_needs_no_lapack() -> None:
    """Reading a hermitian value loads neither scipy nor the JSON parser."""
    script = (
        "import sys; from somactl import serialize_matrix, deserialize_matrix\n"
        "deserialize_matrix(serialize_matrix([[1.0, 0.5], [0.5, 1.0]], key='k'))\n"
        "sys.exit(any(name.startswith(('scipy', 'simdjson', '_flapack')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0

"""What a file holds is told by its bytes; every file that holds no matrix says why."""

from __future__ import annotations

import base64
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from somactl.core import framing, matrix_file
from somactl.core.envelope import serialize_matrix
from somactl.core.framing import build_header
from somactl.core.matrix_file import parse_matrix_file
from somactl.errors import (
    BadBase64,
    DigestMismatch,
    EnvelopeError,
    InputRejected,
    InvalidFile,
    InvalidJson,
    NonFinite,
    Truncated,
    UnsupportedVersion,
)

NAME = "dir/rho 7.npy"
RHO = np.array([[0.5, 0.25], [0.25, 0.5]])


def npy(array: Any, version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asanyarray(array), version=version)
    return stream.getvalue()


def npy_of(header: str, payload: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H" if version[0] == 1 else "<I", len(text)) + text + payload


def npy_header(descr: object = "<f8", shape: object = (2, 2), fortran: object = False) -> str:
    return repr({"descr": descr, "fortran_order": fortran, "shape": shape})


def npz(compressed: bool = False, **arrays: Any) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def array_in(data: bytes) -> np.ndarray:
    return parse_matrix_file(data, NAME).array


# What is read.


@pytest.mark.parametrize("dtype", ["f8", "f4", "c16", "c8", ">f8", ">c8", "f2", "i1", ">i4", "u8", "i8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "wrap",
    [npy, lambda a: npy(a, (2, 0)), lambda a: npy(a, (3, 0)), lambda a: npz(a=a), lambda a: npz(True, a=a)],
)
def test_npy_and_npz(dtype: str, order: Any, wrap: Callable[[np.ndarray], bytes]) -> None:
    array = np.asarray(np.arange(12).reshape(3, 4), dtype=dtype, order=order)
    found = array_in(wrap(array))
    assert found.dtype == {"f2": "f4", "i": "f8", "u": "f8"}.get(dtype.strip(">")[0], dtype.strip(">")) or (
        dtype == "f2" and found.dtype == np.float32
    )
    assert found.dtype.isnative
    assert found.tolist() == array.tolist()


def test_the_name_proves_nothing() -> None:
    for name in ("a.npz", "a.json", "a.txt", "-", "a"):
        assert parse_matrix_file(npy(RHO), name).array.tolist() == RHO.tolist()


def test_numbers_that_are_not_finite_are_for_the_verdict() -> None:
    found = array_in(npy(np.array([[np.nan, np.inf], [0, 1]])))
    assert np.isnan(found[0, 0])
    assert np.isinf(found[0, 1])


@pytest.mark.parametrize("pad", [b"", b"\n", b"\r\n ", b" \t"])
def test_text_forms(pad: bytes) -> None:
    numpy_form = {
        "__np__": True,
        "data": base64.b64encode(RHO.tobytes()).decode(),
        "dtype": "float64",
        "shape": [2, 2],
    }
    envelope = serialize_matrix(RHO, key="k")
    for text in (json.dumps(RHO.tolist()), json.dumps(numpy_form), json.dumps(json.dumps(numpy_form))):
        parsed = parse_matrix_file(pad + text.encode() + pad, NAME)
        assert parsed.array.tolist() == RHO.tolist()
        assert parsed.envelope is None
    parsed = parse_matrix_file(pad + framing.to_text(envelope).encode() + pad, NAME)
    assert parsed.envelope == envelope
    assert parsed.array.tolist() == RHO.tolist()


def test_byte_order_mark_before_json() -> None:
    assert array_in(b"\xef\xbb\xbf[[1]]").tolist() == [[1.0]]


@pytest.mark.parametrize("layout", ["full", "hermitian", "factor"])
def test_an_envelope_keeps_its_layout(layout: str) -> None:
    given = RHO if layout != "factor" else np.array([[0.6], [0.8]])
    envelope = serialize_matrix(given, key="k", layout=layout, kind="rho")
    parsed = parse_matrix_file(envelope, NAME)
    assert parsed.envelope == envelope
    assert parsed.header is not None
    assert parsed.header.layout == layout
    assert parsed.array.shape == (2, 2)
    np.testing.assert_allclose(parsed.array, given @ given.T if layout == "factor" else given, rtol=1e-15)


def test_a_factor_is_not_multiplied_out_before_it_is_asked_for() -> None:
    """n x n of this one would take 800 GB."""
    parsed = parse_matrix_file(serialize_matrix(np.ones((316_228, 1)), key="k", layout="factor"), NAME)
    assert parsed.header is not None
    assert parsed.header.shape == (316_228, 1)


# What is refused: class, defect, and the file's name in every message.

EMPTY_ZIP = b"PK\x05\x06" + bytes(18)
ENVELOPE = serialize_matrix(RHO, key="k")
DEFLATED = npz(True, a=np.zeros((200, 200)))


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (pytest.fail, ("unpickled",))


REFUSED: dict[str, tuple[bytes, type[InputRejected], str]] = {
    "empty": (b"", InvalidFile, "the file is empty"),
    "blank": (b" \n\n ", InvalidFile, "blank"),
    "zeros": (bytes(5000), InvalidFile, "blank"),
    "text": (b"the quick brown fox\n", InvalidFile, "text that is neither"),
    "yaml": (b"rho: [[1, 0], [0, 1]]\n", InvalidFile, "text that is neither"),
    "number": (b"3.5", InvalidFile, "text that is neither"),
    "binary": (b"\x00\x01\x02\x03" * 9, InvalidFile, "in no format"),
    "png": (b"\x89PNG\r\n\x1a\n\0\0", InvalidFile, "in no format"),
    "hdf5": (b"\x89HDF\r\n\x1a\n\0\0", InvalidFile, "HDF5"),
    "gzip": (b"\x1f\x8b\x08\0\0", InvalidFile, "gzip"),
    "pickle": (pickle.dumps(Bomb()), InvalidFile, "pickle"),
    "json": (b"[[1, 2], [3]]", InvalidJson, "ragged"),
    "json object": (b'{"rho": 1}', InvalidJson, "'rho'"),
    "json words": (b'"words"', InvalidJson, "not strict JSON"),
    "utf-16 json": ("[[1]]".encode("utf-16"), InvalidFile, "UTF-16, not UTF-8"),
    # npy
    "npy magic alone": (b"\x93NUMPY", InvalidFile, "header"),
    "npy header cut": (npy(RHO)[:40], InvalidFile, "header"),
    "npy payload cut": (npy(RHO)[:-1], InvalidFile, "truncated"),
    "npy without payload": (npy(RHO)[:128], InvalidFile, "truncated"),
    "npy extended": (npy(RHO) + b"\0", InvalidFile, "followed by other bytes"),
    "two npy": (npy(RHO) + npy(RHO), InvalidFile, "followed by other bytes"),
    "npy bool order": (npy_of(npy_header(fortran=0), bytes(32)), InvalidFile, "header"),
    "npy 9.9": (npy_of(npy_header(), bytes(32), b"\x09\x09"), InvalidFile, "after 3.0"),
    "npy no dict": (npy_of("7", bytes(32)), InvalidFile, "header"),
    "npy code": (npy_of("__import__('os').getcwd()", bytes(32)), InvalidFile, "header"),
    "npy unclosed": (npy_of("{'descr': '<f8'", bytes(32)), InvalidFile, "header"),
    "npy deep": (npy_of("(" * 5000, bytes(32)), InvalidFile, "header"),
    "npy unary deep": (npy_of("-" * 9000 + "1", bytes(32)), InvalidFile, "header"),
    "npy null": (npy_of("\0", bytes(32)), InvalidFile, "header"),
    "npy missing key": (npy_of("{'descr': '<f8', 'shape': (2, 2)}", bytes(32)), InvalidFile, "header"),
    "npy bad descr": (npy_of(npy_header("no such"), bytes(32)), InvalidFile, "dtype 'no such'"),
    "npy shape text": (npy_of(npy_header(shape="22"), bytes(32)), InvalidFile, "header"),
    "npy shape float": (npy_of(npy_header(shape=(2.0, 2)), bytes(32)), InvalidFile, "header"),
    "npy shape booleans": (npy_of(npy_header(shape=(True, True)), bytes(8)), InvalidFile, "header"),
    "npy negative": (npy_of(npy_header(shape=(-2, -2)), bytes(32)), InvalidFile, "shape [-2, -2]"),
    "npy zero": (npy(np.zeros((0, 4))), InvalidFile, "shape [0, 4]"),
    "npy 10^12": (npy_of(npy_header(shape=(10**6, 10**6)), bytes(32)), InvalidFile, "8000000000000 bytes"),
    "npy overflow": (npy_of(npy_header(shape=(2**62, 4)), bytes(32)), InvalidFile, "no envelope holds"),
    "npy huge header": (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31 - 1) + b"{", InvalidFile, "header"),
    "npy long header": (npy_of(npy_header() + " " * 20_000, bytes(32)), InvalidFile, "header"),
    "npy size of digits": (npy_of(npy_header(shape=(10**4000, 1)), bytes(32)), InvalidFile, "header"),
    "npy 100-d": (npy_of(npy_header(shape=(1,) * 100), bytes(8)), InvalidFile, "header"),
    "npy 0-d": (npy(np.float64(3)), InvalidFile, "shape []"),
    "npy 1-d": (npy(np.ones(4)), InvalidFile, "shape [4]"),
    "npy 3-d": (npy(np.ones((2, 3, 4))), InvalidFile, "shape [2, 3, 4]"),
    "npy object": (npy(np.array([[Bomb()]], dtype=object)), InvalidFile, "pickled objects"),
    "npy pickled bytes": (npy_of(npy_header("|O"), pickle.dumps(Bomb())), InvalidFile, "pickled objects"),
    "npy structured": (npy(np.zeros((2, 2), [("a", "f8")])), InvalidFile, "structured"),
    "npy structured object": (npy(np.zeros((1, 1), [("a", "O")])), InvalidFile, "structured"),
    "npy strings": (npy(np.array([["1", "2"]])), InvalidFile, "dtype 'str32'"),
    "npy bytes": (npy(np.array([[b"1"]])), InvalidFile, "dtype 'bytes8'"),
    "npy booleans": (npy(np.eye(2, dtype=bool)), InvalidFile, "dtype 'bool'"),
    "npy dates": (npy(np.zeros((1, 1), "M8[s]")), InvalidFile, "dtype 'datetime64[s]'"),
    "npy void": (npy(np.zeros((1, 1), "V8")), InvalidFile, "dtype 'void64'"),
    "npy long double": (npy(np.eye(2, dtype=np.longdouble)), InvalidFile, "dtype 'float128'"),
    "npy large integers": (npy(np.array([[2**53 + 1]])), InvalidFile, "above 2^53"),
    "npy largest uint64": (npy(np.array([[2**64 - 1]], "u8")), InvalidFile, "above 2^53"),
    # npz
    "npz empty": (EMPTY_ZIP, InvalidFile, "nothing"),
    "npz of two": (npz(a=RHO, b=RHO), InvalidFile, "'a.npy', 'b.npy'"),
    "npz of ten": (npz(**{f"a{i}": RHO for i in range(10)}), InvalidFile, "and 5 more"),
    "zip of text": (zipped({"a.txt": b"hello"}), InvalidFile, "'a.txt'"),
    "zip of a non-array": (zipped({"a.npy": b"hello"}), InvalidFile, "header"),
    "zip of nothing": (zipped({"a.npy": b""}), InvalidFile, "header"),
    "zip lzma": (zipped({"a.npy": npy(RHO)}, zipfile.ZIP_LZMA), InvalidFile, "compressed otherwise"),
    "npz cut": (npz(a=RHO)[:-30], InvalidFile, "damaged"),
    "npz head alone": (b"PK\x03\x04", InvalidFile, "damaged"),
    "npz 1-d": (npz(a=np.ones(3)), InvalidFile, "shape [3]"),
    "npz object": (npz(a=np.array([[Bomb()]], dtype=object)), InvalidFile, "pickled objects"),
    "npz truncated array": (zipped({"a.npy": npy(RHO)[:-5]}), InvalidFile, "truncated"),
    "npz crc": (DEFLATED[:150] + bytes([DEFLATED[150] ^ 1]) + DEFLATED[151:], InvalidFile, "damaged"),
    # envelopes
    "envelope magic cut": (ENVELOPE[:4], Truncated, "ends after 4 bytes"),
    "envelope cut": (ENVELOPE[:-1], Truncated, "ends after"),
    "envelope flipped": (ENVELOPE[:-1] + bytes([ENVELOPE[-1] ^ 1]), DigestMismatch, "digest"),
    "envelope future": (ENVELOPE[:8] + b"\x09\x00" + ENVELOPE[10:], UnsupportedVersion, "version 9"),
    "base64 cut": (framing.to_text(ENVELOPE).encode()[:-3], BadBase64, "base64"),
    "base64 wrapped": (base64.encodebytes(ENVELOPE), BadBase64, "base64"),
    "base64 not ascii": (framing.to_text(ENVELOPE).encode()[:-4] + b"\xff===", BadBase64, "base64"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_refused(case: str) -> None:
    data, kind, defect = REFUSED[case]
    with pytest.raises(kind) as caught:
        parse_matrix_file(data, NAME)
    assert type(caught.value) is kind
    assert caught.value.message.startswith(f"{NAME}: ")
    assert defect in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400
    assert caught.value.facts["subject"] == NAME


def test_an_envelope_whose_numbers_are_bad_names_the_file() -> None:
    payload = np.array([0.5, np.nan, 0.5]).tobytes()
    header = build_header(
        kind="rho", dtype="float64", shape=(2, 2), layout="hermitian", compression="none", timestamp=0.0,
        namespace="default", key="k", payload_length=len(payload), payload_digest=framing.digest(payload),
        canonical_digest=framing.digest(payload),
    )  # fmt: skip
    parsed = parse_matrix_file(header + payload, NAME)
    with pytest.raises(NonFinite, match=NAME):
        _ = parsed.array


def declared(size: int, body: bytes) -> bytes:
    """An archive of one deflated member that claims `size` bytes, whatever it holds."""
    data = zipped({"a.npy": body})
    local, central = data.index(b"PK\x03\x04"), data.index(b"PK\x01\x02")
    for at in (local + 22, central + 24):
        data = data[:at] + struct.pack("<I", size) + data[at + 4 :]
    return data


def test_zip_bombs_are_not_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_file, "MAX_ARRAY_BYTES", 100_000)
    bomb = zipped({"a.npy": npy(np.zeros((2000, 2000)))})  # 32 MB from 32 KB
    assert len(bomb) < 40_000
    with pytest.raises(InvalidFile, match="declares 32000128 bytes"):
        parse_matrix_file(bomb, NAME)
    # An archive that declares less than it holds is cut at what it declares.
    with pytest.raises(InvalidFile, match="32000000 bytes, and no envelope"):
        parse_matrix_file(declared(90_000, npy(np.zeros((2000, 2000)))), NAME)
    with pytest.raises(InvalidFile, match="damaged"):
        parse_matrix_file(declared(20_000, npy(np.zeros((2, 2))) + bytes(32 << 20)), NAME)
    # And one that declares more is short.
    with pytest.raises(InvalidFile, match="damaged"):
        parse_matrix_file(declared(90_000, npy(RHO)), NAME)


def test_the_largest_array_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_file, "MAX_ARRAY_BYTES", 31)
    with pytest.raises(InvalidFile, match=r"shape \[2, 2\] takes 32 bytes, and no envelope"):
        parse_matrix_file(npy(RHO), NAME)


def test_an_encrypted_archive_is_refused() -> None:
    data = bytearray(npz(a=RHO))
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + offset] |= 1
    with pytest.raises(InvalidFile, match="encrypted"):
        parse_matrix_file(bytes(data), NAME)


FUZZED = [npy(RHO), npz(a=RHO), npz(True, a=RHO), ENVELOPE, framing.to_text(ENVELOPE).encode()]


@settings(derandomize=True, max_examples=600, deadline=None)
@given(st.sampled_from(FUZZED), st.integers(0, 10_000), st.binary(min_size=1, max_size=6), st.booleans())
def test_damage_never_escapes_as_another_error(data: bytes, at: int, junk: bytes, insert: bool) -> None:
    at %= len(data)
    damaged = data[:at] + junk + data[at if insert else at + len(junk) :]
    try:
        found = parse_matrix_file(damaged, NAME).array
    except (InvalidFile, InvalidJson, EnvelopeError) as error:
        assert NAME in error.message  # noqa: PT017
    else:
        assert found.ndim == 2


@pytest.mark.parametrize("index", range(len(FUZZED)))
def test_every_cut_is_refused(index: int) -> None:
    data = FUZZED[index]
    for size in range(len(data)):
        with pytest.raises((InvalidFile, EnvelopeError)):
            parse_matrix_file(data[:size], NAME)


def test_deflate_streams_that_lie() -> None:
    body = zlib.compress(b"x" * 1000)
    data = declared(4096, b"\x93NUMPY" + body)
    with pytest.raises(InvalidFile):
        parse_matrix_file(data, NAME)

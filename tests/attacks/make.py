"""Writes the malformed corpus: `manifest.json` names, for each file, the one error it must raise.

It refuses to touch files that exist: what was refused once stays refused in the same way. Run it from the
top of the source tree, after adding a case: `python tests/attacks/make.py`.
"""

from __future__ import annotations

import base64
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
import zstandard

HERE = Path(__file__).resolve().parent
MANIFEST = HERE / "manifest.json"

MAGIC = b"\x89RHO\r\n\x1a\n"
LAYOUT = "<8sHHIQQqqd4BBBH16s16s"
TWO = np.array([[0.75, 0.25], [0.25, 0.25]])


class Attack(NamedTuple):
    """`error` is the class that `deserialize_matrix` raises, `says` a fragment of its message.

    `framed`: `verify`, which sees no numbers, raises the same; else it lets the file pass.
    """

    data: bytes
    error: str
    says: str
    framed: bool = True
    key: str | None = None
    namespace: str | None = None


def digest(data: bytes) -> bytes:
    return xxhash.xxh3_128_digest(data)


def craft(payload: bytes = TWO.tobytes(), **changes: object) -> bytes:
    """A well-formed 2 x 2 float64 envelope with `changes`; every digest is right unless it is changed."""
    f: dict[str, object] = {
        "magic": MAGIC,
        "version": 1,
        "reserved_a": 0,
        "header_length": None,
        "payload_length": len(payload),
        "raw_length": len(payload),
        "rows": 2,
        "columns": 2,
        "timestamp": 0.0,
        "kind": 1,
        "dtype": 1,
        "layout": 1,
        "compression": 1,
        "namespace": b"default",
        "namespace_length": None,
        "reserved_b": 0,
        "key": b"k",
        "key_length": None,
        "payload_digest": digest(payload),
        "canonical_digest": digest(payload),
        "padding": b"\0",
        **changes,
    }
    namespace, key = f["namespace"], f["key"]
    assert isinstance(namespace, bytes)
    assert isinstance(key, bytes)
    assert isinstance(f["padding"], bytes)
    size = -(-(struct.calcsize(LAYOUT) + len(namespace) + len(key) + 16) // 64) * 64
    fixed = struct.pack(
        LAYOUT,
        f["magic"],
        f["version"],
        f["reserved_a"],
        size if f["header_length"] is None else f["header_length"],
        f["payload_length"],
        f["raw_length"],
        f["rows"],
        f["columns"],
        f["timestamp"],
        f["kind"],
        f["dtype"],
        f["layout"],
        f["compression"],
        len(namespace) if f["namespace_length"] is None else f["namespace_length"],
        f["reserved_b"],
        len(key) if f["key_length"] is None else f["key_length"],
        f["payload_digest"],
        f["canonical_digest"],
    )
    head = (fixed + namespace + key).ljust(size - 16, f["padding"])
    return head + digest(head) + payload


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


def shuffled(array: np.ndarray) -> bytes:
    return array.reshape(-1).view(np.uint8).reshape(-1, 8).T.tobytes()


def squeezed(data: bytes, *, size: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=size).compress(data)


def frames() -> Iterator[tuple[str, Attack]]:
    good = craft()
    yield "empty", Attack(b"", "Truncated", "after 0 bytes")
    yield "truncated_magic", Attack(good[:5], "Truncated", "inside its header")
    yield "truncated_length", Attack(good[:14], "Truncated", "inside its header")
    yield "truncated_header", Attack(good[:100], "Truncated", "inside its header")
    yield "truncated_at_payload", Attack(good[:128], "Truncated", "128 of 160 bytes")
    yield "truncated_by_one", Attack(good[:-1], "Truncated", "159 of 160 bytes")
    yield "extended_by_one", Attack(good + b"\0", "TrailingBytes", "1 bytes after its end")
    yield "two_envelopes", Attack(good + good, "TrailingBytes", "160 bytes after its end")
    yield "wrong_magic", Attack(flipped(good, 1), "BadMagic", "magic")
    yield "newlines_translated", Attack(good.replace(b"\r\n", b"\n"), "BadMagic", "magic")
    yield "pickle", Attack(b"\x80\x04\x95\x0a\x00\x00\x00\x00\x00\x00\x00.", "BadMagic", "neither")
    yield "npy", Attack(b"\x93NUMPY\x01\x00v\x00{'descr': '|O'}", "BadMagic", "neither")
    yield "version_0", Attack(craft(version=0), "UnsupportedVersion", "format version 0")
    yield "version_2", Attack(craft(version=2), "UnsupportedVersion", "somactl 0.1")
    yield "version_65535", Attack(craft(version=65535), "UnsupportedVersion", "65535")
    yield "flipped_in_digest", Attack(flipped(good, 120), "DigestMismatch", "header")
    yield "flipped_in_timestamp", Attack(flipped(good, 50), "DigestMismatch", "header")
    yield "flipped_in_payload", Attack(flipped(good, 130, 7), "DigestMismatch", "payload")
    yield "key_swapped_unsealed", Attack(good.replace(b"defaultk", b"defaultj"), "DigestMismatch", "header")
    yield "key_of_another", Attack(craft(key=b"j"), "WrongAddress", "'j'", key="k")
    yield (
        "namespace_of_another",
        Attack(craft(namespace=b"other"), "WrongAddress", "'other'", namespace="default"),
    )


def headers() -> Iterator[tuple[str, Attack]]:
    def bad(says: str, **changes: object) -> Attack:
        return Attack(craft(**changes), "BadHeader", says)  # type: ignore[arg-type]

    yield "header_of_2_gib", bad("2147483648 bytes", header_length=1 << 31)
    yield "header_of_0", bad("claims 0 bytes", header_length=0)
    yield "header_too_short", bad("claims 64 bytes", header_length=64)
    yield "header_unaligned", bad("claims 129 bytes", header_length=129)
    yield "header_longer_than_names", Attack(_padded_header(), "BadHeader", "do not fit names")
    yield "reserved_a", bad("reserved", reserved_a=1)
    yield "reserved_b", bad("reserved", reserved_b=128)
    yield "padding", bad("padding", padding=b" ")
    yield "kind_0", bad("kind code 0", kind=0)
    yield "kind_9", bad("kind code 9", kind=9)
    yield "dtype_object", bad("dtype code 79", dtype=ord("O"))
    yield "layout_4", bad("layout code 4", layout=4)
    yield "compression_3", bad("compression code 3", compression=3)
    yield "shape_zero_rows", bad("0 x 2", rows=0)
    yield "shape_zero_columns", bad("2 x 0", columns=0)
    yield "shape_negative", bad("-2 x -2", rows=-2, columns=-2)
    yield "shape_least", bad("-9223372036854775808", rows=-(1 << 63))
    yield "shape_product_overflow", bad("bytes of payload", rows=1 << 31, columns=1 << 31, kind=3)
    yield "shape_product_wraps_to_32", bad("bytes of payload", rows=1 << 62, columns=(1 << 62) + 1, kind=3)
    yield "shape_beyond_payload", bad("has 72", rows=3, columns=3)
    yield "shape_transposed_payload", bad("a rho is square", rows=1, columns=4)
    yield "payload_of_2_exabytes", bad("an envelope has at most", payload_length=1 << 61)
    yield "payload_length_short", bad("24 uncompressed bytes", payload_length=24)
    yield "payload_length_0", bad("empty payload", payload_length=0, compression=2)
    yield "raw_length_wrong", bad("raw payload of 31 bytes", raw_length=31)
    yield "raw_length_of_2_exabytes", bad("raw payload of", raw_length=1 << 61)
    yield "hermitian_not_square", bad("is for square", layout=2, rows=1, columns=4, kind=3)
    yield "hermitian_with_full_length", bad("has 24", layout=2)
    yield "sketch_hermitian", bad("a sketch has layout full", layout=2, kind=2)
    yield "sketch_factor", bad("a sketch has layout full", layout=3, kind=2)
    yield "timestamp_nan", bad("timestamp", timestamp=float("nan"))
    yield "timestamp_inf", bad("timestamp", timestamp=float("inf"))
    yield "key_empty", bad("a key is empty", key=b"")
    yield "key_with_newline", bad("U+000A", key=b"a\nb")
    yield "key_with_nul", bad("U+0000", key=b"a\0b")
    yield "key_with_c1_control", bad("U+0085", key="a\x85b".encode())
    yield "key_invalid_utf8", bad("UTF-8", key=b"a\xff")
    yield "key_overlong_utf8", bad("UTF-8", key=b"\xc0\xaf")
    yield "key_surrogate", bad("UTF-8", key=b"\xed\xa0\x80")
    yield "key_length_beyond_header", bad("do not fit names", key_length=2000)
    yield "key_too_long", bad("at most 1024", key=b"k" * 1025)
    yield "namespace_empty", bad("namespace", namespace=b"")
    yield "namespace_with_slash", bad("namespace", namespace=b"a/b")
    yield "namespace_too_long", bad("namespace", namespace=b"n" * 65)
    yield "namespace_invalid_utf8", bad("UTF-8", namespace=b"\xff\xfe")
    yield "two_digests_for_one_payload", bad("two digests", canonical_digest=digest(b"another"))


def _padded_header() -> bytes:
    """A header one block longer than its names need, sealed."""
    head = craft(header_length=192)[:112].ljust(176, b"\0")
    return head + digest(head) + TWO.tobytes()


def payloads() -> Iterator[tuple[str, Attack]]:
    def numbers(array: np.ndarray, error: str, says: str, **changes: object) -> Attack:
        return Attack(craft(array.tobytes(), **changes), error, says, framed=False)  # type: ignore[arg-type]

    def zstd(stored: bytes, says: str, error: str = "BadPayload", **changes: object) -> Attack:
        changes = {"compression": 2, "raw_length": 512, "rows": 8, "columns": 8, **changes}
        return Attack(craft(stored, **changes), error, says, framed=False)  # type: ignore[arg-type]

    def half(values: list[complex], canonical: list[complex], error: str, says: str) -> Attack:
        packed, full = np.array(values), np.array(canonical)
        dtype = 2 if packed.dtype.kind == "c" else 1
        return numbers(packed, error, says, layout=2, dtype=dtype, canonical_digest=digest(full.tobytes()))

    yield "nan", numbers(np.array([1.0, np.nan, np.nan, 0.0]), "NonFinite", "nan")
    yield "inf", numbers(np.array([np.inf, 0.0, 0.0, 0.0]), "NonFinite", "inf")
    yield (
        "minus_inf_float32",
        numbers(np.array([0, 0, 0, -np.inf], dtype=np.float32), "NonFinite", "-inf", dtype=3),
    )
    yield "nan_imaginary", numbers(np.array([complex(1, np.nan), 0, 0, 0]), "NonFinite", "nan", dtype=2)
    yield "inf_and_minus_inf", numbers(np.array([np.inf, 0.0, 0.0, -np.inf]), "NonFinite", "inf")
    yield "nan_hermitian", half([np.nan, 0.5, 0.0], [0.5, np.nan, np.nan, 0.0], "NonFinite", "nan")
    # The order of a 2 x 2 payload is a11, a00, a01.
    yield (
        "hermitian_diagonal_imaginary",
        half(
            [0.25 + 0j, 0.75 + 1e-300j, 0.25j],
            [0.75 + 1e-300j, 0.25j, -0.25j, 0.25],
            "BadPayload",
            "diagonal",
        ),
    )
    yield (
        "hermitian_diagonal_minus_zero",
        half([complex(0.25, -0.0), 0.75 + 0j, 0.25j], [0.75, 0.25j, -0.25j, 0.25], "BadPayload", "diagonal"),
    )
    yield (
        "hermitian_of_another_array",
        half([0.25, 0.75, 0.25], [0.75, 0.25, 0.125, 0.25], "DigestMismatch", "not those that were encoded"),
    )
    eight = np.eye(8) / 8
    good = squeezed(shuffled(eight))
    own = {"canonical_digest": digest(eight.tobytes())}
    yield "zstd_of_another_array", zstd(good, "not those that were encoded", "DigestMismatch")
    yield "zstd_no_frame", zstd(b"\0" * 40, "does not decompress")
    yield "zstd_cut", zstd(good[:-1], "does not decompress", **own)
    yield "zstd_trailing", zstd(good + b"\0", "does not decompress", **own)
    yield "zstd_two_frames", zstd(good + good, "does not decompress", **own)
    yield "zstd_bomb", zstd(squeezed(b"\0" * (64 << 20)), "does not state the 512 bytes", **own)
    yield "zstd_bomb_unstated", zstd(squeezed(b"\0" * (64 << 20), size=False), "does not state", **own)
    yield "zstd_bomb_lying", zstd(_lying(b"\0" * (1 << 20), 512), "does not decompress", **own)
    yield "zstd_short", zstd(squeezed(shuffled(eight)[:504]), "does not state the 512 bytes", **own)
    yield "zstd_lying_short", zstd(_lying(shuffled(eight)[:504], 512), "does not decompress", **own)
    yield "zstd_nan", zstd(squeezed(shuffled(eight * np.nan)), "nan", "NonFinite")


def _lying(data: bytes, stated: int) -> bytes:
    """A frame of `data` whose header states another content size (RFC 8878, 3.1.1.1; two-byte form)."""
    frame = squeezed(data, size=False)
    assert frame[4] >> 6 == 0
    descriptor = frame[4] | 0x40
    return frame[:4] + bytes([descriptor, frame[5]]) + struct.pack("<H", stated - 256) + frame[6:]


def texts() -> Iterator[tuple[str, Attack]]:
    good = base64.b64encode(craft())
    urlsafe = base64.urlsafe_b64encode(craft(key=b"\xc3\xbf\xc3\xbf>>>???"))
    assert b"_" in urlsafe
    assert b"-" in urlsafe
    yield "text_newline_at_end", Attack(good + b"\n", "BadBase64", "base64")
    yield "text_leading_space", Attack(b" " + good, "BadBase64", "base64")
    yield "text_wrapped", Attack(good[:76] + b"\n" + good[76:], "BadBase64", "base64")
    yield "text_urlsafe", Attack(urlsafe, "BadBase64", "base64")
    yield "text_no_padding", Attack(good.rstrip(b"="), "BadBase64", "base64")
    yield "text_too_much_padding", Attack(good + b"====", "BadBase64", "base64")
    yield "text_padding_inside", Attack(good[:8] + b"====" + good[8:], "BadBase64", "base64")
    yield "text_stray_bits", Attack(_stray(good), "BadBase64", "stray bits")
    yield "text_rubbish", Attack(good[:40] + b"!" + good[41:], "BadBase64", "base64")
    yield "text_nul", Attack(good[:40] + b"\0" + good[41:], "BadBase64", "base64")
    yield "text_not_ascii", Attack(good[:40] + b"\xc3\xa9" + good[42:], "BadMagic", "neither")
    yield "text_truncated", Attack(good[:-4], "Truncated", "of 160 bytes")
    yield "text_extended", Attack(base64.b64encode(craft() + b"more"), "TrailingBytes", "4 bytes after")
    yield "text_of_something_else", Attack(base64.b64encode(b"hello, world"), "BadMagic", "magic")
    yield "text_twice", Attack(base64.b64encode(good), "BadMagic", "magic")


def _stray(text: bytes) -> bytes:
    """The same bytes, with one of the bits set that the last group has beyond them."""
    assert text.endswith(b"=")
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    body = text.rstrip(b"=")
    last = alphabet[alphabet.index(body[-1:]) + 1 :][:1]
    return body[:-1] + last + text[len(body) :]


def main() -> int:
    manifest = json.loads(MANIFEST.read_text("utf-8")) if MANIFEST.exists() else {}
    for source, suffix in ((frames, "bin"), (headers, "bin"), (payloads, "bin"), (texts, "txt")):
        for name, attack in source():
            path = HERE / f"{name}.{suffix}"
            if path.exists() or path.name in manifest:
                sys.stdout.write(f"{path.name}: exists, left alone\n")
                continue
            path.write_bytes(attack.data)
            manifest[path.name] = {
                field: value
                for field, value in attack._asdict().items()
                if field != "data" and value is not None
            }
            sys.stdout.write(f"{path.name}: written\n")
    MANIFEST.write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

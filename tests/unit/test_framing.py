"""The frame: what `peek` and `verify` say of bytes, without numpy."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, strategies as st

from somactl.core import framing
from somactl.core.framing import (
    build_header,
    digest,
    from_text,
    header_length,
    payload,
    peek,
    to_text,
    verify,
)
from somactl.core.names import KINDS
from somactl.errors import (
    BadBase64,
    BadHeader,
    DigestMismatch,
    EnvelopeError,
    LimitExceeded,
    TrailingBytes,
    Truncated,
    WrongAddress,
)

NUMBERS = bytes(range(32))

names = st.text("abcXYZ019._-", min_size=1, max_size=64)
keys = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=200)


def frame(
    numbers: bytes = NUMBERS, *, namespace: str = "default", key: str = "k", **changes: object
) -> bytes:
    fields: dict[str, object] = {
        "kind": "rho",
        "dtype": "float64",
        "shape": (2, 2),
        "layout": "full",
        "compression": "none",
        "timestamp": 0.0,
        "payload_length": len(numbers),
        "payload_digest": digest(numbers),
        "canonical_digest": digest(numbers),
        **changes,
    }
    return build_header(namespace=namespace, key=key, **fields) + numbers  # type: ignore[arg-type]


@given(names, keys, st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(KINDS))
def test_header_round_trip(namespace: str, key: str, timestamp: float, kind: str) -> None:
    data = frame(namespace=namespace, key=key, timestamp=timestamp, kind=kind)
    found = verify(data, namespace=namespace, key=key)
    assert (found.namespace, found.key, found.timestamp, found.kind) == (namespace, key, timestamp, kind)
    assert found.header_length % 64 == 0
    assert found.header_length == header_length(namespace, key) <= framing.MAX_HEADER_BYTES
    assert found.total_length == len(data)
    assert bytes(payload(data, found)) == NUMBERS
    assert peek(data[: found.header_length]) == peek(data + b"more") == found


def test_every_length_short_is_truncated() -> None:
    data = frame()
    for length in range(len(data)):
        with pytest.raises(Truncated):
            verify(data[:length])


@given(st.binary(min_size=1, max_size=300))
def test_every_byte_more_is_trailing(more: bytes) -> None:
    with pytest.raises(TrailingBytes):
        verify(frame() + more)


def test_every_bit_is_guarded() -> None:
    data = frame()
    for position in range(len(data) * 8):
        changed = bytearray(data)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(EnvelopeError):
            verify(changed)


@given(st.binary(max_size=400))
def test_no_bytes_but_errors_of_the_tree(data: bytes) -> None:
    for candidate in (data, framing.MAGIC + data, frame()[:96] + data):
        with pytest.raises(EnvelopeError):
            verify(candidate)


@given(st.integers(0, 111), st.binary(min_size=1, max_size=16))
def test_resealed_headers_are_consistent_or_refused(offset: int, piece: bytes) -> None:
    """Whatever stands in the fields, under a right digest: what passes is within every limit."""
    head = bytearray(frame()[:112])
    head[offset : offset + len(piece)] = piece
    head = head[:112]
    sealed = bytes(head) + digest(bytes(head))
    try:
        found = peek(sealed)
    except EnvelopeError:
        return
    assert found.total_length <= framing.MAX_ENVELOPE_BYTES
    assert found.raw_length == framing.raw_length(found.shape, found.dtype, found.layout)
    assert min(found.shape) >= 1


def test_address() -> None:
    data = frame(namespace="a", key="x")
    assert verify(data).key == "x"
    with pytest.raises(WrongAddress, match="'x'"):
        verify(data, key="y")
    with pytest.raises(WrongAddress, match="'a'"):
        verify(data, namespace="b")


def test_content_is_what_the_matrix_is() -> None:
    base = peek(frame())
    same = [
        frame(timestamp=5.0),
        frame(compression="zstd", payload_length=9, payload_digest=b"p" * 16),
        frame(layout="hermitian", payload_length=24, payload_digest=b"p" * 16),
    ]
    assert {peek(data).content for data in same} == {base.content}
    other = [
        frame(key="j"),
        frame(namespace="defaul", key="tk"),
        frame(kind="matrix"),
        frame(layout="factor"),
        frame(dtype="complex64", shape=(1, 4), kind="matrix"),
        frame(shape=(4, 1), kind="matrix"),
        frame(shape=(1, 4), kind="matrix"),
        frame(NUMBERS[::-1]),
    ]
    contents = [peek(data).content for data in other]
    assert len({base.content, *contents}) == len(other) + 1
    assert len({peek(data).envelope for data in [frame(), *same, *other]}) == 12


def test_digests_are_hex_and_header_is_frozen() -> None:
    found = peek(frame())
    assert len(found.content) == len(found.envelope) == 32
    assert bytes.fromhex(found.envelope) == frame()[112:128]
    with pytest.raises(AttributeError):
        found.key = "j"  # type: ignore[misc]


def test_future_version_is_known_by_any_reader() -> None:
    with pytest.raises(
        EnvelopeError, match=r"format version 7; this somactl reads 1 \(read since somactl 0.1\)"
    ):
        peek(framing.MAGIC + b"\x07\0")


def test_claims_are_refused_before_they_are_believed() -> None:
    huge = bytearray(frame())
    huge[12:16] = (1 << 31).to_bytes(4, "little")
    with pytest.raises(BadHeader, match="2147483648"):
        peek(huge)
    with pytest.raises(BadHeader, match="at most 268435456"):
        peek(frame(shape=(1 << 30, 1 << 29), kind="matrix", payload_length=1 << 62)[:128])


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_any_buffer(wrap: type) -> None:
    found = verify(wrap(frame()))
    assert bytes(payload(wrap(frame()), found)) == NUMBERS


@given(st.binary(max_size=200))
def test_text_round_trip(data: bytes) -> None:
    text = to_text(data)
    assert from_text(text) == data
    if data:
        for wrong in (text + "\n", " " + text, text + "=", text[:-1], text[:4] + "\n" + text[4:]):
            with pytest.raises(BadBase64):
                from_text(wrong)


@given(st.text(max_size=12))
def test_one_text_for_one_value(text: str) -> None:
    """Whatever is accepted is what `to_text` would have written."""
    try:
        data = from_text(text)
    except BadBase64:
        return
    assert to_text(data) == text


def test_text_prefix() -> None:
    assert to_text(frame()).startswith(framing.TEXT_PREFIX)
    assert to_text(framing.MAGIC + b"\xff" * 9).startswith(framing.TEXT_PREFIX)


def test_text_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "_BASE64_LIMIT", 100)
    with pytest.raises(LimitExceeded, match="104 characters"):
        from_text("A" * 104)


def test_payload_digest_is_checked() -> None:
    with pytest.raises(DigestMismatch, match="payload of 'k'"):
        verify(frame(payload_digest=b"x" * 16, canonical_digest=b"x" * 16))


def test_imports_no_numpy() -> None:
    script = "import sys, somactl.core.framing; sys.exit('numpy' in sys.modules or 'pybase64' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0

"""Seeded damage to bytes: each seed gives the same one on every machine, so that a finding comes again."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

NUMBERS = (
    b"0", b"-1", b"1", b"255", b"65535", b"65536", b"2147483647", b"2147483648", b"-2147483648",
    b"9223372036854775808", b"18446744073709551616", b"1e400", b"-0", b"1" * 400,
    b"NaN", b"nan", b"Infinity", b"0x10", b"1_0", b".5", b"1e", b"3L",
)  # fmt: skip
BYTES = (
    b"\0", b"\xff", b"\r\n", b"\n", b"\x1b[31m", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800",
    b'"', b"'", b"\\", b"[", b"]", b"{", b"}", b"(", b")", b",", b":", b"=", b"@", b"/", b"?", b"%zz", b"*",
    b"null", b"true", b"None", b"[" * 2000, b"{" * 1500, b'{"a":' * 1200, b"(" * 3000, b"-" * 3000,
)  # fmt: skip


def mutated(data: bytes, rng: random.Random, words: Sequence[bytes] = ()) -> bytes:
    """`data` with one to four damages."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(_DAMAGES)(data, rng, words)
    return data


def _flip(data: bytes, rng: random.Random, words: Sequence[bytes]) -> bytes:
    if not data:
        return b"\0"
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _cut(data: bytes, rng: random.Random, words: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _drop(data: bytes, rng: random.Random, words: Sequence[bytes]) -> bytes:
    start, end = _part(data, rng)
    return data[:start] + data[end:]


def _repeat(data: bytes, rng: random.Random, words: Sequence[bytes]) -> bytes:
    start, end = _part(data, rng)
    return data[:end] + data[start:end] * rng.choice((1, 1, 3, 50)) + data[end:]


def _swap(data: bytes, rng: random.Random, words: Sequence[bytes]) -> bytes:
    start, end = _part(data, rng)
    first, last = _part(data, rng)
    return data[:start] + data[first:last] + data[end:]


def _insert(data: bytes, rng: random.Random, words: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(words or BYTES) + data[at:]


def _strange(data: bytes, rng: random.Random, words: Sequence[bytes]) -> bytes:
    start, end = _part(data, rng)
    return data[:start] + rng.choice(BYTES) + data[min(end, start + 4) :]


def _number(data: bytes, rng: random.Random, words: Sequence[bytes]) -> bytes:
    """Another number in the place of one."""
    digits = [i for i in range(len(data)) if data[i : i + 1].isdigit()]
    if not digits:
        return data
    start = end = rng.choice(digits)
    while data[end : end + 1].isdigit():
        end += 1
    return data[:start] + rng.choice(NUMBERS) + data[end:]


def _random(data: bytes, rng: random.Random, words: Sequence[bytes]) -> bytes:
    start, end = _part(data, rng)
    return data[:start] + rng.randbytes(min(end - start, 64)) + data[end:]


def _part(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 1, 2, 4, 8, 40)))


_DAMAGES: tuple[Callable[[bytes, random.Random, Sequence[bytes]], bytes], ...] = (
    _flip, _cut, _drop, _repeat, _swap, _insert, _strange, _number, _random,
)  # fmt: skip

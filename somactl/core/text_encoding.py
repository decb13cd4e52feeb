"""Byte order marks: how text from outside may begin, decided once for every text that is read.

A UTF-8 mark at the very beginning is passed over, since editors and shells put one there unasked; anywhere
else it is a character like any other. UTF-16 and UTF-32 are refused by name: read as bytes, they would be
taken for binary data.
"""

from __future__ import annotations

BOM = b"\xef\xbb\xbf"
_WIDE = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


def without_mark(text: bytes) -> bytes:
    """`text` behind its mark; the same object where there is none."""
    return text.removeprefix(BOM)


def wide_encoding(text: bytes) -> str | None:
    """UTF-16 or UTF-32 where a mark at the beginning says so."""
    return next((name for mark, name in _WIDE if text.startswith(mark)), None)

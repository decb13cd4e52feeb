"""Commit ids: UUIDv7 by default, so that they sort by time and a store can tell an expired one."""

from __future__ import annotations

import os
import time


def new_commit_id() -> str:
    """A UUIDv7 (RFC 9562 5.7). The client's clock in it is a label; the store's clock decides expiry."""
    milliseconds = time.time_ns() // 1_000_000
    bits = (milliseconds & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10), "big")
    bits = bits & ~(0xF << 76) | 0x7 << 76
    bits = bits & ~(0x3 << 62) | 0x2 << 62
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

"""A large value costs its own size in memory, and the pieces it is moved in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import asyncio, os, sys, time
from pathlib import Path
from somactl.core.framing import digest
from somactl.core.framing import build_header, header_length
from somactl.store.contract import CommitMetadata
from somactl.store.sqlite import SqliteStore

MIB = 1 << 20

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

def reset():
    Path("/proc/self/clear_refs").write_text("5")
    return peak()

def big_envelope(side):
    start = header_length("default", "big")
    data = bytearray(start + 8 * side * side)
    view = memoryview(data)
    view[start + 8 :: 4096] = bytes(len(view[start + 8 :: 4096]))
    payload = digest(view[start:])
    view[:start] = build_header(
        kind="matrix", dtype="float64", shape=(side, side), layout="full", compression="none",
        timestamp=0.0, namespace="default", key="big", payload_length=8 * side * side,
        payload_digest=payload, canonical_digest=payload,
    )
    return view

async def main():
    store = SqliteStore(sys.argv[1])
    await store.commit_matrix_update({"small": None}, CommitMetadata(), commit_id="warm")
    data = big_envelope(4096)
    size = len(data)
    before = reset()
    await store.commit_matrix_update({"big": data}, CommitMetadata(), commit_id="big")
    write = peak() - before
    before = reset()
    entry = await store.read("big")
    read = peak() - before
    assert bytes(entry.data[-8:]) == bytes(data[-8:]) and len(entry.data) == size
    before = reset()
    del entry
    stats = [stat async for page in store.scan() for stat in page]
    listing = peak() - before
    await store.close()
    assert "numpy" not in sys.modules
    print(size, write, read, listing)

asyncio.run(main())
"""


def test_a_4096_by_4096_matrix(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "big.db")],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    size, write, read, listing = map(int, done.stdout.split())
    assert size > 8 * 4096**2
    assert write < 0.15 * size
    assert read < 1.15 * size
    assert listing < 0.05 * size

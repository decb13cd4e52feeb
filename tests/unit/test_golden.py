"""Released envelopes are read for ever, and the normative page says what the code does."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from somactl import errors
from somactl.core import framing
from somactl.core.envelope import deserialize_matrix, serialize_matrix
from somactl.core.framing import peek, verify

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
MANIFEST: dict[str, dict[str, Any]] = json.loads((GOLDEN / "manifest.json").read_text("utf-8"))
FIELDS = ("namespace", "key", "kind", "dtype", "layout", "compression", "timestamp", "content", "envelope")

each = pytest.mark.parametrize("name", MANIFEST)


def _data(name: str) -> bytes:
    return (GOLDEN / f"{name}.envelope").read_bytes()


def _expected(entry: dict[str, Any]) -> np.ndarray:
    dtype = np.dtype(entry["dtype"])
    flat = np.array([float.fromhex(text) for text in entry["values"]]).astype(dtype.type(0).real.dtype)
    return flat.view(dtype).reshape(entry["shape"])


def test_manifest_names_every_file() -> None:
    assert set(MANIFEST) == {path.stem for path in GOLDEN.glob("*.envelope")}
    combinations = {(e["layout"], e["dtype"]) for e in MANIFEST.values()}
    assert {layout for layout, _ in combinations} == set(framing.LAYOUTS)
    assert {dtype for _, dtype in combinations} == set(framing.DTYPES)
    assert {e["compression"] for e in MANIFEST.values()} == set(framing.COMPRESSIONS)


@each
def test_is_read(name: str) -> None:
    entry = MANIFEST[name]
    matrix = deserialize_matrix(_data(name), namespace=entry["namespace"], key=entry["key"])
    assert matrix.header is not None
    assert {field: getattr(matrix.header, field) for field in FIELDS} == {f: entry[f] for f in FIELDS}
    assert list(matrix.header.shape) == entry["shape"]
    assert matrix.values.tobytes() == _expected(entry).tobytes()


@each
def test_is_still_written_so(name: str) -> None:
    """The encoder gives the released bytes; another zstd may compress otherwise, the content stands."""
    entry = MANIFEST[name]
    again = serialize_matrix(
        _expected(entry),
        key=entry["key"],
        namespace=entry["namespace"],
        kind=entry["kind"],
        layout=entry["layout"],
        compression=entry["compression"],
        timestamp=entry["timestamp"],
    )
    assert peek(again).content == entry["content"]
    if entry["compression"] == "none":
        assert again == _data(name)


def test_generator_leaves_released_files_alone(tmp_path: Path) -> None:
    for path in GOLDEN.iterdir():
        if path.suffix in (".py", ".json", ".envelope"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    victim = tmp_path / "rho_1_float64.envelope"
    victim.write_bytes(b"released")
    namespace: dict[str, Any] = {"__file__": str(tmp_path / "make.py"), "__name__": "make"}
    exec(compile((GOLDEN / "make.py").read_text("utf-8"), "make.py", "exec"), namespace)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert namespace["main"]() == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# The normative page. Its tables are read as a second implementation would read them.

PAGE = (ROOT / "docs" / "ENVELOPE.md").read_text("utf-8") if (ROOT / "docs").exists() else ""


def _table(heading: str) -> list[list[str]]:
    section = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows[2:]]


@pytest.mark.source
@each
def test_page_describes_the_header(name: str) -> None:
    """Every field lies where the table says, and the fixed ones fill 96 bytes without a gap."""
    formats = {"u8": "B", "u16": "<H", "u32": "<I", "u64": "<Q", "i64": "<q", "f64": "<d"}
    data, position = _data(name), 0
    found: dict[str, Any] = {}
    for offset, size, kind, field, *_ in _table("Header"):
        if not offset.isdigit() or not size:
            continue
        assert int(offset) == position
        position += int(size)
        piece = data[int(offset) : position]
        found[field] = struct.unpack(formats[kind], piece)[0] if kind in formats else piece
    assert position == 96
    entry, header = MANIFEST[name], peek(data)
    assert found["magic"] == framing.MAGIC
    assert found["format version"] == framing.FORMAT_VERSION
    assert found["reserved"] == 0
    assert found["header length"] == header.header_length
    assert found["payload length"] == header.payload_length
    assert found["raw length"] == header.raw_length
    assert [found["rows"], found["columns"]] == entry["shape"]
    assert found["timestamp"] == entry["timestamp"]
    for field in ("kind", "dtype", "layout", "compression"):
        codes = {int(code): text for what, code, text, *_ in _table("Codes") if what == field}
        assert codes[found[field]] == entry[field]
    assert found["namespace length"] == len(entry["namespace"].encode())
    assert found["key length"] == len(entry["key"].encode())
    assert found["payload digest"] == header.payload_digest
    assert found["canonical digest"] == header.canonical_digest


@pytest.mark.source
def test_page_lists_every_code() -> None:
    codes = {
        (what, int(code), text)
        for what, table in (
            ("kind", framing.KIND_CODES),
            ("dtype", framing.DTYPE_CODES),
            ("layout", framing.LAYOUT_CODES),
            ("compression", framing.COMPRESSION_CODES),
        )
        for text, code in table.items()
    }
    assert {(what, int(code), text) for what, code, text, *_ in _table("Codes")} == codes


@pytest.mark.source
def test_page_lists_every_error() -> None:
    named = {error for _, error in _table("Defects and their errors")}
    expected = {cls.__name__ for cls in errors.EnvelopeError.__subclasses__()} | {"LimitExceeded"}
    assert named == expected


@pytest.mark.source
def test_page_lists_every_golden_file() -> None:
    rows = {row[0]: row[1:] for row in _table("Test vectors")}
    assert rows == {name: [entry["content"], entry["envelope"]] for name, entry in MANIFEST.items()}


@pytest.mark.source
def test_page_shows_a_whole_envelope() -> None:
    block = re.search(r"```text\n(00000000 .*?)\n```", PAGE, re.DOTALL)
    assert block is not None
    shown = bytes.fromhex("".join(re.sub(r"^[0-9a-f]{8} ", "", line) for line in block[1].splitlines()))
    assert shown == _data("rho_2_float64_hermitian")
    assert verify(shown).layout == "hermitian"


@pytest.mark.source
@each
def test_page_defines_the_digests(name: str) -> None:
    """Envelope and content digest, recomputed from the words of the page alone."""
    data, entry = _data(name), MANIFEST[name]
    length = int.from_bytes(data[12:16], "little")
    assert xxhash.xxh3_128_digest(data[length:]) == data[64:80]
    assert xxhash.xxh3_128_digest(_expected(entry).tobytes()) == data[80:96]
    assert xxhash.xxh3_128_hexdigest(data[: length - 16]) == data[length - 16 : length].hex()
    form = 2 if entry["layout"] == "factor" else 1
    names = entry["namespace"].encode(), entry["key"].encode()
    image = (
        b"somactl.content1"
        + bytes([data[56], data[57], form, len(names[0])])
        + len(names[1]).to_bytes(2, "little")
        + bytes(2)
        + data[32:48]
        + data[80:96]
        + names[0]
        + names[1]
    )
    assert xxhash.xxh3_128_hexdigest(image) == entry["content"]
    assert "`somactl.content1`" in PAGE


@pytest.mark.source
@pytest.mark.parametrize("n", range(1, 12))
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_page_defines_the_hermitian_order(n: int, dtype: str) -> None:
    """The two formulas of the page, entry by entry."""
    rows, columns = np.indices((n, n))
    array = (rows + columns + rows * columns + 1j * (columns - rows)).astype("complex64")
    array = array if dtype == "complex64" else array.real.astype(dtype)
    data = serialize_matrix(array, key="k", layout="hermitian")
    payload = np.frombuffer(data[peek(data).header_length :], dtype=dtype)
    q, s = (n + 1) // 2, 1 - n % 2
    for r in range(q):
        for c in range(n + s):
            expected = array[r, c - s] if c >= r + s else array[q - 1 + s + r, q + c]
            assert payload[r * (n + s) + c] == expected

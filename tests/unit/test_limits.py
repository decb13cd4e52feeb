"""What comes from outside has a bound, in bytes and steps, and `docs/LIMITS.md` names it."""

from __future__ import annotations

import importlib
import io
import pkgutil
import re
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import somactl
from somactl.core import json_pointer
from somactl.core.legacy_json import MAX_ROWS, parse_matrix
from somactl.core.matrix_file import MAX_DIRECTORY_BYTES, parse_matrix_file
from somactl.core.ndjson_line import split
from somactl.errors import InputRejected, InvalidFile, SomactlError
from somactl.legacy.values import find_matrices
from somactl.store.postgres.framing import MAX_MESSAGE_BYTES, MAX_ROW_BYTES, FrameReader
from somactl.store.redis.connection import EXCHANGE_BYTES, TALK_BYTES, allowance

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"\| [^|]+ \| ([0-9,]+)(?: bytes| characters)? \| `([a-z_.]+)\.([A-Z_]+)` \|")


@pytest.mark.source
def test_the_page_says_what_the_code_does() -> None:
    rows = ROW.findall((ROOT / "docs" / "LIMITS.md").read_text())
    assert len(rows) >= 30
    for number, module, name in rows:
        assert getattr(importlib.import_module(module), name) == int(number.replace(",", "")), name


def npz_of_zeros(rows: int) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, a=np.zeros((rows, 1000)))
    return file.getvalue()


def test_a_small_archive_does_not_expand_to_much() -> None:
    assert parse_matrix_file(npz_of_zeros(1000), "f").array.shape == (1000, 1000)
    bomb = npz_of_zeros(10_000)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidFile, match="more than 100-fold"):
            parse_matrix_file(bomb, "f")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_an_archive_of_many_names_is_not_listed() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for i in range(MAX_DIRECTORY_BYTES // 50):
            archive.writestr(f"{i}.npy", b"")
    with pytest.raises(InvalidFile, match="lists more than"):
        parse_matrix_file(file.getvalue(), "f")


class Scanner:
    """Counts the steps of `json_pointer.scan`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = 0
        bites, opens = json_pointer._any_bite, json_pointer._open

        def bite(*arguments: Any) -> Any:
            self.steps += 1
            return bites(*arguments)

        monkeypatch.setattr(json_pointer, "_any_bite", bite)
        monkeypatch.setattr(json_pointer, "_open", opens)


@pytest.mark.parametrize("text", [b"[" * 5_000_000, b"[[" + b"[" * 5_000_000, b'{"a":' * 900_000])
def test_open_brackets_end_a_text(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    scanner = Scanner(monkeypatch)
    with pytest.raises(SomactlError):
        json_pointer.scan(text, lambda *_: None)
    assert scanner.steps <= json_pointer.MAX_DEPTH + 2
    for discover in (False, True):
        for site in find_matrices(text, discover=discover).sites:
            with pytest.raises(InputRejected):
                parse_matrix(site.text)
    with pytest.raises(InputRejected):
        parse_matrix(text)


def test_a_line_of_brackets_is_followed_no_deeper_than_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from somactl.core import ndjson_line

    steps = 0
    bracket = ndjson_line._BRACKET

    def counted(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        return bracket(*arguments)

    monkeypatch.setattr(ndjson_line, "_BRACKET", counted)
    _, value = split(b'{"key": "a", "value": ' + b"[" * 5_000_000 + b"}")
    assert len(value) == 5_000_000
    assert steps <= ndjson_line.MAX_DEPTH + 1


def test_rows_end() -> None:
    with pytest.raises(InputRejected, match=f"{MAX_ROWS} rows or more"):
        parse_matrix(b"[" + b"[1]," * MAX_ROWS + b"[1]]")


def test_what_a_redis_may_send_depends_on_what_was_asked() -> None:
    assert allowance([("PING",)]) == TALK_BYTES
    assert allowance([("get", "k")]) > 384 << 20
    assert allowance([("MGET", "k")] * 100) == EXCHANGE_BYTES


@pytest.mark.parametrize("size", [1, 3, 5, 7, 1000])
def test_frames_are_followed_through_pieces(size: int) -> None:
    sound = b"R\0\0\0\x08\0\0\0\0" + b"D" + (4 + 3000).to_bytes(4, "big") + bytes(3000) + b"Z\0\0\0\x05I"
    reader = FrameReader()
    for start in range(0, len(sound), size):
        assert reader.defect(sound[start : start + size]) is None


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (b"E" + (50 << 20).to_bytes(4, "big"), "52428800 bytes"),
        (b"E\xff\xff\xff\xff", "bytes"),
        (b"E\0\0\0\x03", "3 bytes"),
        (b"D" + (MAX_ROW_BYTES + 1).to_bytes(4, "big"), "bytes"),
        (b"T" + (MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"), "bytes"),
        (b"HTTP/1.1", "unknown type 'H'"),
    ],
)
def test_frames_that_cannot_be_are_refused(frame: bytes, said: str) -> None:
    defect = FrameReader().defect(frame)
    assert defect is not None
    assert said in defect


def _patterns() -> list[tuple[str, re.Pattern[Any]]]:
    found = []
    for module in pkgutil.walk_packages(somactl.__path__, "somactl."):
        if module.name.startswith("somactl.testing") or module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            pattern = value if isinstance(value, re.Pattern) else getattr(value, "__self__", None)
            if isinstance(pattern, re.Pattern):
                found.append((f"{module.name}.{name}", pattern))
    return found


def _goes_back(tokens: Any, inside: bool = False) -> bool:
    """Whether an unbounded repetition that may give back stands in another one."""
    for operation, argument in tokens:
        name = str(operation)
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            _, most, inner = argument
            unbounded = str(most) == "MAXREPEAT"
            if (unbounded and inside) or _goes_back(inner, inside or unbounded):
                return True
        elif name in ("POSSESSIVE_REPEAT", "ATOMIC_GROUP"):
            inner = argument[2] if name == "POSSESSIVE_REPEAT" else argument
            if _goes_back(inner, False):
                return True
        elif name == "SUBPATTERN":
            if _goes_back(argument[-1], inside):
                return True
        elif name == "BRANCH" and any(_goes_back(branch, inside) for branch in argument[1]):
            return True
    return False


OUR_OWN_PAGES = "somactl.cli.pages."
"""Reads what is shipped with it, and nothing else."""


def test_no_expression_goes_back_without_end() -> None:
    parse = importlib.import_module("re._parser").parse
    patterns = _patterns()
    assert len(patterns) > 40
    back = [name for name, pattern in patterns if _goes_back(parse(pattern.pattern, pattern.flags))]
    assert [name for name in back if not name.startswith(OUR_OWN_PAGES)] == []

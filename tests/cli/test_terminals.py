"""What a terminal is given: no text from outside moves its cursor, colours it, or makes a line of its own."""

from __future__ import annotations

import ast
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest
from hypothesis import example, given, strategies as st

from somactl.cli.output import Output
from somactl.cli.render import render, render_error
from somactl.cli.suggest import Invocation
from somactl.cli.text import columns, on_lines
from somactl.errors import KeyNotFound
from somactl.report import REPORTS, CommitView, LogReport, Report
from somactl.suggestion import printable
from tests.cli.conftest import Shell, density

CLI = Path(__file__).resolve().parents[2] / "somactl" / "cli"
MARKS = (
    "\n\r\t\x00\x07\x08\x0b\x0c\x1b\x7f\x80\x85\x9b\x9d"
    "\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\ufeff\udcff"
)
EVIL = "a\nFORGED\x1b[2K\x1b]0;title\x07\u202e\u2028\r\x9b31m\udc80"


def is_harmless(line: str) -> bool:
    return line.isprintable() and "\ufe0f" not in line and "\u3164" not in line


@given(st.text(st.characters(exclude_categories=()), max_size=40) | st.text(MARKS))
@example(EVIL)
@example("\ufe0f\u3164\u034f")
def test_whatever_is_printed_is_one_harmless_line(text: str) -> None:
    shown = printable(text)
    assert is_harmless(shown)
    assert printable(shown) == shown
    assert (
        (shown == text) == is_harmless(text)
        or not text.isprintable()
        or set(text) & set("\u034f\u115f\u1160")
    )
    shown.encode()


@given(st.lists(st.lists(st.text(MARKS + "ab"), min_size=3, max_size=3), max_size=4))
def test_a_table_has_a_line_for_each_row(rows: list[list[str]]) -> None:
    assert len(on_lines(columns(["A", "B", "C"], rows)).split("\n")) == len(rows) + 1


def test_what_people_write_stays_as_it_is() -> None:
    for text in (
        "acme:(9.0, 14.0, 43.0):data",
        "größe",
        "密度行列",
        "Δ = SᴴS",
        "café\u0301",
        "C:\\temp",
        "$'x'",
    ):
        assert printable(text) == text


WORDS = {"phase": "copied", "state": "committed"}  # fields that choose what is said


def made(kind: Any, text: str) -> Any:
    """A value of the type `kind` with something everywhere, and `text` wherever there is text."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or kind is str:
        return text
    if origin is typing.Annotated:
        return made(arguments[0], text)
    if origin is Literal:
        return arguments[0]
    if origin in (types.UnionType, typing.Union):
        return made(next(a for a in arguments if a is not types.NoneType), text)
    if origin in (list, tuple):
        return origin([made(arguments[0], text)])
    if origin is dict:
        return {made(arguments[0], text): made(arguments[1], text)}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind, include_extras=True)
        chosen = {
            f: word for f, word in WORDS.items() if hints.get(f) is str or word in get_args(hints.get(f))
        }
        return kind(**{f: chosen.get(f) or made(hints[f], text) for f in kind.__struct_fields__})
    if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__"):
        hints = typing.get_type_hints(kind)
        return kind(**{f: made(hints[f], text) for f in kind.__dataclass_fields__})
    return kind(1) if kind in (int, float, bool) else kind()


SHIPPED = {"explain", "completion"}  # texts of our own, of many lines


@pytest.mark.parametrize(
    "kind",
    [r for r in REPORTS if r.__struct_config__.tag not in SHIPPED],
    ids=lambda r: str(r.__struct_config__.tag),
)
def test_no_text_in_a_report_makes_a_line_or_steers_a_terminal(kind: type[Report]) -> None:
    evil, plain = (_filled(kind, text) for text in (EVIL, "ab"))
    lines = render(evil).split("\n")
    assert [line for line in lines if not line.isprintable()] == []
    assert not any(line.startswith("FORGED") for line in lines)
    wraps = kind is LogReport  # its details are broken into lines by their width
    assert wraps or len(lines) == len(render(plain).split("\n"))
    coloured = render(evil, color=True)
    for code in ("32", "33", "31", "0"):
        coloured = coloured.replace(f"\x1b[{code}m", "")
    assert coloured == "\n".join(lines)


def _filled(kind: type[Report], text: str) -> Report:
    value = made(kind, text)
    for name in ("stored_verdict",):
        if hasattr(value, name):
            setattr(value, name, {"status": text, "rigour": text})
    return typing.cast(Report, value)


def test_a_label_forges_no_row_of_the_log() -> None:
    forged = "x\n9        2026-01-01 00:00:00Z  0190-forged  commit  a"
    row = CommitView(
        state="committed",
        version=1,
        commit_id="one",
        recorded_at=0.0,
        made_by="commit",
        keys={"a": "digest"},
        metadata={"why": forged},
    )
    text = render(LogReport(namespace="n", commits=[row]))
    assert not any(line.startswith("9 ") for line in text.split("\n"))


def test_an_error_is_as_many_lines_as_without_marks() -> None:
    for text in (EVIL, "ab"):
        error = KeyNotFound(f"key {text} is not there", hint=f"look at {text}")
        lines = render_error(
            error, Invocation(command="get", arguments=(text,), shared={"store": text})
        ).split("\n")
        assert all(map(str.isprintable, lines))
        assert len(lines) == 3


def test_remarks_and_errors_in_json_are_exact(capfd: pytest.CaptureFixture[str]) -> None:
    exact = EVIL.replace("\udc80", "")
    Output("json").warn(exact)
    Output("json").failure(KeyNotFound(exact))
    Output("table").warn(exact)
    first, second, third, *rest = capfd.readouterr().err.split("\n")
    assert json.loads(first)["message"] == json.loads(second)["message"] == exact
    assert (third, rest) == (printable(exact), [""])


@pytest.mark.parametrize("mode", ["table", "json"])
@pytest.mark.parametrize(
    "words",
    [
        ["get", "a\x1b[31m\u202eb"],
        ["verify-psd", "--file", "no\nfile\x07"],
        ["\x1b[2Knonsense"],
        ["ls", "--\x1b[2Knonsense\u202e"],
        ["verify-psd", "--file", b"\xff\xfe"],
    ],
    ids=["key", "file", "command", "option", "bytes"],
)
def test_what_is_echoed_is_escaped(shell: Shell, words: list[Any], mode: str) -> None:
    if mode != "table" and words[0] != "verify-psd":
        return  # only file names can be bytes that are no UTF-8
    result = shell(*words, "--output", mode)
    assert result.code in (2, 11, 15)
    assert "bug" not in result.err
    if mode == "table":
        for line in [*result.err.split("\n"), *result.text.split("\n")]:
            assert line.isprintable(), line


def test_labels_and_names_of_a_real_store(shell: Shell) -> None:
    shell.save("x\x1b[31m.npy", density(2))
    shell.ok("commit", "a\u202eb=x\x1b[31m.npy", "--metadata", "k\x1b[2K=v\n9  forged\u2028")
    for words in (["ls"], ["log"], ["show", "a\u202eb"]):
        assert all(line.isprintable() for line in shell.ok(*words).text.split("\n"))
    assert shell.ok("log", "-o", "json").json["commits"][0]["metadata"] == {"k\x1b[2K": "v\n9  forged\u2028"}


# Where the command line may write to a standard stream by other means than `Output`.
PRINTERS = {
    "__init__.py": "the version",
    "app.py": "the version",
    "output.py": "the one place, and the line of progress",
    "confirm.py": "a question",
    "completion.py": "words for a shell, the printable ones alone",
    "text.py": "the streams themselves",
}


def _prints(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("print", "typer.echo", "typer.secho", "click.echo", "typer.confirm", "typer.prompt"):
                yield name
            if name.startswith(("sys.stdout.write", "sys.stderr.write", "sys.stdout.buffer.write")):
                yield name


def test_nothing_else_prints() -> None:
    found = {
        path.relative_to(CLI).as_posix(): set(_prints(ast.parse(path.read_text(encoding="utf-8"))))
        for path in CLI.rglob("*.py")
    }
    assert {name for name, calls in found.items() if calls} <= set(PRINTERS)

"""The runner of the docs' sessions: what it lets pass and what it must not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.console import DocumentError, matches, parse_block, run_block


def run(source: str, cwd: Path) -> None:
    run_block(source, cwd, {"PATH": os.environ["PATH"]}, seconds=30)


@pytest.mark.parametrize(
    "block",
    [
        "$ echo one\none\n",
        "$ echo one; echo two >&2\none\ntwo\n",
        "$ printf 'no newline'\nno newline\n$ echo next\nnext\n",
        "$ echo a; echo b; echo c\na\n...\n",
        "$ echo id 42 done\nid ... done\n",
        "$ true\n...\n",
        "$ (exit 3)\n$ echo $?\n3\n",
        "$ cat <<EOF\n> text\n> EOF\ntext\n",
        "$ here=1\n$ echo $here\n1\n",
        "$ echo one\none\n\n$ echo two\ntwo\n",
    ],
)
def test_accepts(block: str, tmp_path: Path) -> None:
    run(block, tmp_path)


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ("$ echo one\ntwo\n", r"-two\n\+one"),
        ("$ echo one\n", r"\+one"),
        ("$ true\nsomething\n", "-something"),
        ("$ (exit 3)\n", "exit code 3"),
        ("$ (exit 3)\n$ true\n", "exit code 3"),
        ("$ echo a\na\n$ exit 0\n", "the shell ended"),
        ("output first\n", "starts with a command"),
        ("$ echo a b\na...c\n", r"-a\.\.\.c"),
    ],
)
def test_refuses(block: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=complaint):
        run(block, tmp_path)


def test_a_hanging_command_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="did not end"):
        run_block("$ sleep 600\n", tmp_path, {"PATH": os.environ["PATH"]}, seconds=0.5)


def test_blocks_share_the_folder(tmp_path: Path) -> None:
    run("$ echo kept > file\n", tmp_path)
    run("$ cat file\nkept\n", tmp_path)


def test_parse_keeps_commands_and_output_apart() -> None:
    (step,) = parse_block("$ cat <<EOF\n> x\n> EOF\nx\n\n")
    assert step.command == "cat <<EOF\nx\nEOF"
    assert step.expected == ("x",)


def test_wildcards_do_not_cross_lines_inside_a_line() -> None:
    assert matches(("a...c",), ["a b c"])
    assert not matches(("a...c",), ["a", "c"])
    assert matches(("...", "c"), ["a", "b", "c"])
    assert not matches(("a.c",), ["abc"])

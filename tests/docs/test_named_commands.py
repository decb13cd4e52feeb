"""No command is put into words but by the one function, and every flag and command that is named exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache, reduce
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from somactl.cli.app import COMMANDS, build

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for path in (ROOT / "somactl").rglob("*.py") if "testing" not in path.parts)
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("RUNBOOKS/*.md")])

pytestmark = pytest.mark.source

NAMED_BY_HAND = {
    "serve/openapi.py": "the title of the description, not a call",
    "report/base.py": "the table of exit codes names the command, not a call",
    "cli/commands/completion.py": "lines of a shell's start-up file, where no store is named",
    "cli/pages.py": "the list of topics names the command, not a call",
    "operations/prune/request.py": "part of what an order's identity is made of; never shown",
    "core/order/parsing.py": "part of what an order's digest is made of; never shown",
}
A_REHEARSED_KEY = "somactl doctor"
"""What the commit that doctor rehearses would delete."""
OTHERS = {"--complete", "--user", "--json", "--no-deps", "--require-hashes", "--persistence", "--path-as-is"}
"""Flags of other programs that pages and messages name, and the one that completion scripts call."""

_CALL = re.compile(rf"\bsomactl ({'|'.join(map(re.escape, COMMANDS))})\b")
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z](?![\w-])")


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The string literals of a module with their lines: no docstrings, and parts of f-strings too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
    }  # a string that stands by itself
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


@cache
def flags() -> dict[str, set[str]]:
    """The flags of each command, its shared ones included."""
    parser: Any = build()
    shared = {flag for option in parser.params for flag in (*option.opts, *option.secondary_opts)}
    own = {
        name: {flag for option in found.params for flag in (*option.opts, *option.secondary_opts)}
        for name in COMMANDS
        for found in [reduce(lambda group, word: group.commands[word], name.split(), parser)]
    }
    return {name: known | shared | {"--help", "-h"} for name, known in own.items()}


@cache
def all_flags() -> set[str]:
    return set().union(*flags().values()) | OTHERS


def test_calls_are_put_into_words_in_one_place() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text[:80]!r}"
        for path in SOURCES
        if str(path.relative_to(ROOT / "somactl")) not in NAMED_BY_HAND
        for line, text in texts(path)
        if _CALL.search(text) and text != A_REHEARSED_KEY
    ]
    assert found == [], "say it as data: next=run(...), session.command(...), session.line(again(...))"


def test_suggestions_name_options_by_keyword() -> None:
    """A flag among the arguments would be taken for a key, and stand behind `--`."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("session.command", "run")
        for argument in node.args
        if isinstance(argument, ast.Constant) and str(argument.value).startswith("-")
    ]
    assert found == []


def suggested(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls that build a suggestion whose command is a literal."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
            continue
        if ast.unparse(node.func) in ("run", "suggestion.run", "session.command", "self.session.command"):
            yield node


def test_suggested_commands_and_options_exist() -> None:
    found = []
    for path in SOURCES:
        for call in suggested(ast.parse(path.read_text(encoding="utf-8"))):
            command = str(call.args[0].value)  # type: ignore[attr-defined]
            known = flags().get(command)
            named = [f"--{k.arg.rstrip('_').replace('_', '-')}" for k in call.keywords if k.arg]
            if known is None or not set(named) <= known:
                found.append(f"{path.relative_to(ROOT)}:{call.lineno}: {command} {named}")
    assert found == []


def test_flags_in_messages_exist() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {flag}"
        for path in SOURCES
        for line, text in texts(path)
        for flag in _FLAG.findall(text)
        if flag not in all_flags()
    ]
    assert found == []


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_commands_and_flags_in_prose_exist(page: Path) -> None:
    for span in spans(page):
        words = span.split()
        if words[:1] == ["somactl"] and len(words) > 1 and not words[1].startswith(("-", "COMMAND")):
            command = next((name for name in (" ".join(words[1:3]), words[1]) if name in COMMANDS), None)
            assert command is not None, f"{span}: there is no such command"
            assert set(_FLAG.findall(span)) <= flags()[command], f"{span}: there is no such option"
        elif span.startswith("--"):
            assert set(_FLAG.findall(span)) <= all_flags(), f"{span}: there is no such option"


def spans(page: Path) -> Iterator[str]:
    """The inline code of a page."""
    for token in MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8")):
        yield from (child.content for child in token.children or [] if child.type == "code_inline")

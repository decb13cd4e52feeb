"""Every example in every page runs, every command a page names exists, and every link leads somewhere."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

from support.console import run_block
from tests.cli.conftest import FORKED

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "RUNBOOKS/*.md", "examples/**/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
)
UNRUN = {"sh", "json", "toml", "yaml", "text", "mermaid", "sql", "ini", ""}

pytestmark = pytest.mark.source
every_page = pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])


def _environment(home: Path) -> dict[str, str]:
    return {
        "PATH": os.pathsep.join([str(FORKED.folder), str(BIN), os.environ["PATH"]]),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "COLUMNS": "100",
    }


@every_page
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("examples").symlink_to(ROOT / "examples")

    def console(example: Example) -> None:
        run_block(example.parsed, tmp_path, _environment(tmp_path))

    parsers = [CodeBlockParser(language="console", evaluator=console), PythonCodeBlockParser()]
    for example in Sybil(parsers=parsers).parse(page).examples():
        _keep_named_file(str(example.parsed))
        example.evaluate()


def _keep_named_file(source: str) -> None:
    """A block that begins with `# NAME.py` is that file too, for the blocks after it."""
    if named := re.match(r"# (\w+\.py)\n", source):
        Path(named[1]).write_text(source, encoding="utf-8")


@every_page
def test_blocks_are_of_a_known_kind(page: Path) -> None:
    for language, source, line in _blocks(page):
        assert language in UNRUN | {"console", "python"}, f"line {line}: an unknown kind of block"
        prompts = [text for text in source.splitlines() if text.startswith("$ ")]
        assert language == "console" or not prompts, f"line {line}: a session that is not run"


@every_page
def test_named_commands_exist(page: Path) -> None:
    for language, source, line in _blocks(page):
        if language in ("sh", "console"):
            for words in _somactl_calls(source, language):
                problem = _problem(words)
                assert problem is None, f"line {line}: somactl {' '.join(words)}: {problem}"


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for href in _links(page):
        if not re.match(r"[a-z]+:", href) and not href.startswith("#"):
            target = page.parent / href.split("#")[0]
            assert target.exists(), f"{page.name} links to {href}, which does not exist"
            assert target.resolve().is_relative_to(ROOT), f"{page.name} links outside the project: {href}"


def test_there_are_pages() -> None:
    assert ROOT / "README.md" in PAGES


def _blocks(page: Path) -> Iterator[tuple[str, str, int]]:
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "fence":
            yield token.info.strip(), token.content, (token.map or [0])[0] + 1


def _links(page: Path) -> Iterator[str]:
    for token in MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8")):
        for child in token.children or []:
            target = child.attrGet("href" if child.type == "link_open" else "src")
            if target:
                yield str(target)


def _somactl_calls(source: str, language: str) -> Iterator[list[str]]:
    """The words after each `somactl` that stands where a command stands."""
    if language == "console":
        kept = [text[2:] for text in source.splitlines() if text.startswith(("$ ", "> "))]
        source = "\n".join(kept)
    for text in source.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("();<>|&"):
                while command and re.fullmatch(r"[A-Za-z_]+=.*", command[0]):
                    command.pop(0)
                if command and command[0] == "somactl":
                    yield command[1:]
                command = []
            else:
                command.append(word)


@cache
def _surface() -> tuple[set[str], dict[str, set[str]]]:
    """The global options, and for each command its options."""
    from somactl.cli.app import build

    group: Any = build()
    commands = {name: _options(command) | {"--help"} for name, command in group.commands.items()}
    for name, command in group.commands.items():
        for part, inner in getattr(command, "commands", {}).items():
            commands[f"{name} {part}"] = _options(inner) | {"--help"}
    return _options(group) | {"--help"}, commands


def _options(command: Any) -> set[str]:
    return {option for p in command.params for option in (*p.opts, *p.secondary_opts)}


def _problem(words: list[str]) -> str | None:
    everywhere, commands = _surface()
    flags = [word.split("=")[0] for word in words if re.match(r"--?[A-Za-z]", word)]
    first, second = [*(word for word in words if not word.startswith("-")), None, None][:2]
    name = next((each for each in (f"{first} {second}", first) if each in commands), first)
    if name is not None and name not in commands:
        return f"there is no command {name}"
    known = everywhere | (commands[name] if name else set())
    return next((f"there is no option {flag}" for flag in flags if flag not in known), None)

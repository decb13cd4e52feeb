"""Runs the ```console blocks of a document and compares what they print.

The convention, as a reader of the docs sees it:

- a line that starts with `$ ` is a command; lines that start with `> ` continue it; what follows, up to
  the next command, is what it prints (stdout and stderr together, as in a terminal);
- a line `...` stands for any number of lines, and `...` inside a line for any text;
- a command that fails must be followed by `$ echo $?`, so that the page shows its exit code;
- the blocks of one document share one temporary folder, which holds the project's `examples/`;
- the ports 8080 and 8081 of 127.0.0.1, where `somactl serve` listens, stand for two that are free here.
"""

from __future__ import annotations

import difflib
import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from servers.process import free_port

_MARK = "somactl-docs-step"


class DocumentError(AssertionError):
    """A block does not print what its document says."""


@dataclass(frozen=True)
class Step:
    """One command of a block and the lines the document shows below it."""

    command: str
    expected: tuple[str, ...]


def on_free_ports(source: str) -> str:
    """The same at ports that no other test has."""
    for port in ("8080", "8081"):
        if f"127.0.0.1:{port}" in source:
            source = source.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}")
    return source


def parse_block(source: str) -> list[Step]:
    """The steps of a block; raises DocumentError where it does not start with a command."""
    steps: list[tuple[list[str], list[str]]] = []
    for line in source.splitlines():
        if line.startswith("$ "):
            steps.append(([line[2:]], []))
        elif not steps:
            raise DocumentError(f"a console block starts with a command, not with {line!r}")
        elif line.startswith("> ") and not steps[-1][1]:
            steps[-1][0].append(line[2:])
        else:
            steps[-1][1].append(line.rstrip())
    return [Step("\n".join(command), tuple(_without_blank_end(lines))) for command, lines in steps]


def run_block(source: str, cwd: Path, env: dict[str, str], seconds: float = 120) -> None:
    """Run a block in one shell; raises DocumentError at the first step that differs."""
    steps = parse_block(on_free_ports(source))
    outputs = _outputs(steps, cwd, env, seconds)
    for index, step in enumerate(steps):
        if index >= len(outputs):
            raise DocumentError(f"$ {step.command}\nthe shell ended before this command was done")
        lines, code = outputs[index]
        if not matches(step.expected, lines):
            raise DocumentError(_difference(step, lines, code))
        shown = index + 1 < len(steps) and steps[index + 1].command == "echo $?"
        if code != 0 and not shown:
            raise DocumentError(f"$ {step.command}\nfails with exit code {code}, and no `$ echo $?` shows it")


def matches(expected: tuple[str, ...], actual: list[str]) -> bool:
    """Whether the printed lines are the expected ones, `...` being a wildcard."""
    pattern = "".join(
        r"(?:[^\n]*\n)*" if line == "..." else "[^\n]*".join(map(re.escape, line.split("..."))) + r"\n"
        for line in expected
    )
    return re.fullmatch(pattern, "".join(line + "\n" for line in actual)) is not None


def commands_of(page: str) -> list[tuple[str, str]]:
    """The commands of a page's `sh` blocks, each with the section it stands in.

    They are instructions, whose words in capitals are to be filled in first (`somactl explain --with`).
    """
    from markdown_it import MarkdownIt

    found: list[tuple[str, str]] = []
    section, tokens = "", MarkdownIt().parse(page)
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "heading_open" and following is not None:
            section = following.content
        elif token.type == "fence" and token.info.strip() == "sh":
            lines = token.content.replace("\\\n", " ").splitlines()
            found += [(section, line) for line in lines if line.strip() and not line.startswith("#")]
    return found


def run_commands(
    commands: list[str], cwd: Path, env: dict[str, str], seconds: float = 120
) -> list[tuple[list[str], int]]:
    """What each command prints and its exit code, all in one shell; raises DocumentError if one ends it."""
    outputs = _outputs([Step(command, ()) for command in commands], cwd, env, seconds)
    if len(outputs) < len(commands):
        raise DocumentError(f"$ {commands[len(outputs)]}\nthe shell ended before this command was done")
    return outputs


def _outputs(
    steps: list[Step], cwd: Path, env: dict[str, str], seconds: float
) -> list[tuple[list[str], int]]:
    script = "".join(
        f"{step.command}\n__code=$?; printf '\\n{_MARK} %d\\n' $__code; (exit $__code)\n" for step in steps
    )
    shell = subprocess.Popen(
        ["bash", "--noprofile", "--norc", "-c", script],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        encoding="utf-8",
        errors="backslashreplace",
    )
    try:
        printed, _ = shell.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.communicate()
        raise DocumentError(f"the block did not end within {seconds} s:\n{steps}") from None
    parts = re.split(rf"\n?{_MARK} (\d+)\n", printed)
    return [
        (_without_blank_end([line.rstrip() for line in text.splitlines()]), int(code))
        for text, code in zip(parts[::2], parts[1::2], strict=False)
    ]


def _without_blank_end(lines: list[str]) -> list[str]:
    while lines and not lines[-1]:
        lines = lines[:-1]
    return lines


def _difference(step: Step, actual: list[str], code: int) -> str:
    diff = difflib.unified_diff(step.expected, actual, "the document", "the command", lineterm="", n=1000)
    return "\n".join([f"$ {step.command}   (exit code {code})", *diff])

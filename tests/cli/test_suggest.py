"""Suggested lines: a shell reads every word back as it was, and the command line parses what was meant."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from somactl.cli.app import build
from somactl.cli.pages import fill
from somactl.cli.suggest import Invocation
from somactl.errors import KeyNotFound, OutcomeUnknown, SecretExposed, UsageError
from somactl.suggestion import Suggestion, again, command_line, explain, quote, run
from tests.cli.conftest import Shell

# Anything an argument may hold: no NUL, and no lone surrogates but those that stand for a byte.
WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
ODD = [
    "-",
    "--",
    "-key",
    "--store",
    "=x",
    "a=b=c",
    "it's",
    'a"b',
    "a b",
    "$HOME `id` \\",
    "~",
    "#x",
    "!!",
    "\n",
    "",
]


def read_back(line: str, shell: str = "bash") -> list[str]:
    """The words that a shell passes to the command `somactl` in this line."""
    script = f"somactl() {{ printf '%s\\0' \"$@\"; }}; {line}"
    done = subprocess.run([shell, "-c", script], capture_output=True, check=True)
    return [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]


@given(st.lists(WORDS, min_size=1, max_size=30))
@settings(max_examples=20, deadline=None)
def test_a_shell_reads_every_word_as_it_was(words: list[str]) -> None:
    words += [*ODD, "\x1b[31m", "‮", "\udcff", "a b"]
    line = " ".join(["somactl", *map(quote, words)])
    assert line.isprintable()
    assert read_back(line) == words


@pytest.mark.parametrize("key", [word for word in ODD if word not in ("", "\n")])
@pytest.mark.parametrize(
    "suggestion",
    [
        lambda key: run("restore", key, version=3, commit_id=None),
        lambda key: run("ls", match=key, deleted=True),
        lambda key: run("commit", f"{key}=a.npy", expect=[f"{key}=4", "0"], dry_run=False),
    ],
)
def test_the_parser_reads_the_line_as_it_was_meant(suggestion: Any, key: str) -> None:
    wanted: Suggestion = suggestion(key)
    shared = {"store": "sqlite:///my file.db", "namespace": "n"}
    _, name, *words = ["", *read_back(command_line(wanted, shared))]
    context = build().commands[name].make_context(name, words)  # type: ignore[attr-defined]
    found = {
        k: list(v) if isinstance(v, tuple) else v
        for k, v in context.params.items()
        if k in dict(wanted.options) or k in shared
    }
    meant = dict(wanted.options) | shared
    assert {k: v or None for k, v in found.items()} == {k: v or None for k, v in meant.items()}
    arguments = [
        list(v) if isinstance(v, tuple) else v for k, v in context.params.items() if k in ("key", "puts")
    ]
    assert not arguments or arguments[0] in (*wanted.arguments, list(wanted.arguments))


def test_options_of_the_suggestion_win_over_those_of_the_session() -> None:
    line = command_line(run("ls", namespace="demo"), {"store": "sqlite:///s", "namespace": "n"})
    assert line == "somactl ls --namespace demo --store sqlite:///s"


def test_help_needs_no_store_and_a_page_writes_it_into_its_commands() -> None:
    shared = {"store": "sqlite:///s"}
    assert command_line(explain(14), shared) == "somactl explain 14 --store sqlite:///s"
    assert command_line(run("commit", help=True), shared) == "somactl commit --help"
    assert command_line(run("", help=True), shared) == "somactl --help"


def test_the_same_command_again_changes_only_what_it_says() -> None:
    invocation = Invocation("prune", (), {"order_file": "o.txt", "dry_run": True}, {"namespace": "n"})
    line = invocation.line(again(dry_run=None, order_id="x"))
    assert line == "somactl prune --order-file o.txt --order-id x --namespace n"


@pytest.mark.parametrize(
    "invocation",
    [
        Invocation("commit"),
        Invocation("commit", ("a=-",)),
        Invocation("migrate-json", ("-",)),
        Invocation("prune", (), {"order_file": "-"}),
        Invocation("verify-psd", (), {"file": ["a", "-"]}),
    ],
)
def test_what_came_on_standard_input_is_not_suggested_again(invocation: Invocation) -> None:
    assert invocation.line(again()) is None
    assert invocation.unfed(again())


def test_a_file_on_standard_input_is_suggested_again(shell: Shell) -> None:
    shell.write("the lines", '{"key": "a", "value": [[1.0]]}\n')
    with open(shell.folder / "the lines", "rb") as lines:
        told, _ = shell.begin("commit", "--dry-run", stdin=lines).communicate(timeout=60)
    (line,) = [text for text in told.decode().splitlines() if text.startswith("next: ")]
    assert line == "next: somactl commit < 'the lines'"


def test_an_error_about_a_secret_repeats_no_word_of_the_command_line() -> None:
    invocation = Invocation("migrate-json", ("postgresql://u:pw@h/d",), {}, {"store": "redis://:pw@h"})
    assert invocation.advice(SecretExposed("...", next=again(yes=True))) == []


def test_every_error_names_a_command_or_a_runbook() -> None:
    assert Invocation("get").advice(UsageError("...")) == ["somactl get --help"]
    assert Invocation("get").advice(KeyNotFound("...")) == ["somactl explain KeyNotFound"]


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
def test_a_posix_shell_reads_ordinary_keys() -> None:
    assert read_back(command_line(run("log", "acme:(9.0, 14.0):it's"), {}), "sh") == [
        "log",
        "acme:(9.0, 14.0):it's",
    ]


PAGE = """# A page

```sh
somactl log KEY | head -3   # of KEY
cp DATABASE copy/ && somactl get KEY --version N --to now.env > out.json
somactl ls --store sqlite:///copy.db
```

Then `somactl restore KEY --version N`, and `KEY` in prose. `somactl frob KEY` is no command.
"""


def test_a_page_is_filled_with_one_key_and_place() -> None:
    filled = fill(
        PAGE, {"KEY": "-a 'b'", "DATABASE": "my db"}, {"store": "sqlite:///my db", "namespace": "n"}
    )
    where = "--store 'sqlite:///my db' --namespace n"
    key = quote("-a 'b'")
    assert f"somactl log {where} -- {key} | head -3   # of {key}" in filled
    assert f"cp 'my db' copy/ && somactl get --version N --to now.env {where} -- {key} > out.json" in filled
    assert "somactl ls --store sqlite:///copy.db --namespace n\n" in filled
    assert f"`somactl restore --version N {where} -- {key}`" in filled
    assert "and `KEY` in prose" in filled
    assert "`somactl frob KEY`" in filled


def test_a_page_without_a_place_stays_as_it_is() -> None:
    assert fill(PAGE, {}, {}) == PAGE


def test_an_unknown_outcome_without_a_commit_is_settled_by_the_same_command() -> None:
    """Notes, and changes of a source, have no commit id to ask for."""
    invocation = Invocation("migration finalize", ("0123",), {"rate": "5"})
    error = OutcomeUnknown("...", commit_id="")
    assert invocation.advice(error) == ["somactl migration finalize 0123 --rate 5"]
    assert "--with" not in (invocation.runbook(error) or "")

"""The one place where a suggested command becomes a line that works when pasted."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from somactl.errors import Interrupted, SecretExposed, SomactlError, Terminated, UsageError, VersionConflict
from somactl.suggestion import Suggestion, command_line, explain, quote, run

PARAMETERS = frozenset(
    {
        *("kind", "dtype", "layout", "compression", "on_clampable", "clamp", "max_move", "normalize"),
        *("readdress", "change_kind", "namespace", "cache", "commit_id", "allow_stale"),
    }
)
"""What hints may name in backquotes: parameters of `open_store`, `Policy` and `commit_matrix_update`."""
_PAGE = re.compile(r"\b(?:docs|RUNBOOKS)/[A-Za-z_-]+\.md\b")
_READS_STDIN_WITHOUT_WORDS = frozenset({"commit", "migrate-json"})


@dataclass(frozen=True, slots=True)
class Invocation:
    """What the running command was given, as far as a suggestion may repeat it.

    options are its own ones by parameter name; shared holds the options that say where (store, cache,
    namespace, config) and were given on the command line. What the environment says needs no flag.
    store is the address that is used, without secrets, and namespace the one that is: for reports. dark: the
    command runs in dark mode.
    """

    command: str = ""
    arguments: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    shared: Mapping[str, str] = field(default_factory=dict)
    store: str = ""
    namespace: str = ""
    dark: bool = False

    @property
    def reads_stdin(self) -> bool:
        """Whether it took data from standard input, so that its words alone do not repeat it."""
        if self.command in _READS_STDIN_WITHOUT_WORDS and not self.arguments:
            return True
        files = [self.options.get("order_file"), *(self.options.get("file") or [])]
        return "-" in files or any(word == "-" or word.endswith("=-") for word in self.arguments)

    def line(self, suggestion: Suggestion) -> str | None:
        """The suggestion as a command line for this place; None where words alone do not repeat it."""
        line = self.unfed(suggestion)
        return with_same_input(line) if suggestion.command is None and self.reads_stdin else line

    def unfed(self, suggestion: Suggestion) -> str:
        """The same without what was given on standard input."""
        options = dict(suggestion.options)
        if suggestion.command is None:
            kept = {} if suggestion.afresh else self.options
            suggestion = Suggestion(self.command, self.arguments, tuple({**kept, **options}.items()))
        return command_line(suggestion, self.shared)

    def advice(self, error: SomactlError) -> list[str]:
        """The commands to run after `error`, most useful first."""
        if isinstance(error, SecretExposed):  # no word of a command line that holds a password is repeated
            return []
        lines = [self.line(suggestion) for suggestion in error.next]
        found = [line for line in lines if line is not None]
        found += [command_line(run("explain", page), self.shared) for page in _PAGE.findall(error.hint or "")]
        if not found and isinstance(error, UsageError):
            found = [command_line(run(self.command, help=True), {})]
        if not found and error.runbook is None and not isinstance(error, Interrupted | Terminated):
            found = [command_line(explain(type(error).__name__), self.shared)]
        return list(dict.fromkeys(found))

    def runbook(self, error: SomactlError) -> str | None:
        """The command that prints the error's page, with this place and the error's key in its commands."""
        if not error.runbook:
            return None
        known = {"KEY": error.facts.get("key"), "COMMIT_ID": error.facts.get("commit_id")}
        if isinstance(error, VersionConflict):
            known["KEY"] = next(iter(error.conflicts), None)
        words = [f"{name}={value}" for name, value in known.items() if value and isinstance(value, str)]
        page = run("explain", f"RUNBOOKS/{error.runbook}.md", with_=words)
        return command_line(page, {} if isinstance(error, SecretExposed) else self.shared)


def in_flags(hint: str) -> str:
    """A hint as the command line says it: `max_move=D` in backquotes, a parameter of Python's, is a flag.

    Hints are written for both faces; what is no parameter of a commit stays as it is.
    """

    def flag(found: re.Match[str]) -> str:
        if found[1] not in PARAMETERS:
            return found[0]
        return "--" + found[1].replace("_", "-") + (f" {found[2]}" if found[2] else "")

    return re.sub(r"`([a-z_]+)(?:=([^`]+))?`", flag, hint)


def with_same_input(line: str) -> str | None:
    """The line with the file that standard input is; None where it is a pipe or a terminal."""
    try:
        if not stat.S_ISREG(os.fstat(0).st_mode):
            return None
        path = os.readlink("/proc/self/fd/0")
    except OSError:
        return None
    if not os.path.exists(path):
        return None
    below = os.path.relpath(path)
    return f"{line} < {quote(path if below.startswith('..') else below)}"

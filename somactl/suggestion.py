"""The next command to run, as data: errors carry it, and the face that reports them puts it into words.

A store that raises KeyNotFound knows the key, and nothing of flags, shells or Python: it says
`next=run("log", key)`. `command_line` makes a line of it that can be pasted, to which the command line adds
where the store is (`cli.suggest`).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

OFFLINE = frozenset({"completion", "demo", "evidence check", "evidence merge"})
"""Commands that open no store, and need no word of where it is."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A command of somactl with its arguments and options.

    command is None for the one that is running, whose arguments and options are then kept, but for those
    that `options` names; with `afresh` the arguments alone are kept. An option is True for a flag, a value,
    a list for one that is repeated, or None for one that is left out.
    """

    command: str | None
    arguments: tuple[str, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    afresh: bool = False


def run(command: str, *arguments: str, **options: Any) -> Suggestion:
    """`run("restore", key, version=3)`. An option that is a word of Python takes an underscore: `from_`."""
    return Suggestion(command, tuple(map(str, arguments)), tuple(options.items()))


def again(**options: Any) -> Suggestion:
    """The running command once more, with other options: `again(dry_run=None, yes=True)`."""
    return Suggestion(None, (), tuple(options.items()))


def afresh(**options: Any) -> Suggestion:
    """The running command about the same things, with these options alone."""
    return Suggestion(None, (), tuple(options.items()), afresh=True)


def explain(topic: str | int) -> Suggestion:
    """The page about a topic: a runbook, a document, an exit code or an error."""
    return run("explain", str(topic))


def command_line(suggestion: Suggestion, shared: Mapping[str, str]) -> str:
    """`somactl COMMAND ARGUMENTS OPTIONS`, quoted for a shell. Options of the suggestion win over `shared`.

    Arguments that begin with a dash come last, behind `--`.
    """
    options = {name.rstrip("_"): value for name, value in suggestion.options}
    if suggestion.command not in OFFLINE and "help" not in options:
        options = {**options, **{name: word for name, word in shared.items() if name not in options}}
    words = [word for name, value in options.items() for word in _option(name, value)]
    arguments = list(suggestion.arguments)
    behind = any(word.startswith("-") and word != "-" for word in arguments)
    tail = [*words, "--", *arguments] if behind else [*arguments, *words]
    named = (suggestion.command or "").split()
    return " ".join(map(quote, ["somactl", *named, *tail]))


def _option(name: str, value: Any) -> Iterator[str]:
    flag = "--" + name.replace("_", "-")
    if value is None or value is False:
        return
    if value is True:
        yield flag
        return
    for part in value if isinstance(value, list | tuple) else [value]:
        word = str(part)
        if word.startswith("-") and word != "-":
            yield f"{flag}={word}"
        else:
            yield from (flag, word)


def quote(word: str) -> str:
    """`word` for a shell. What a terminal must not print, and bytes that are no UTF-8, become `$'\\x1b'`.

    bash, zsh and ksh read that form. zsh would expand a word that begins with `=`.
    """
    if printable(word) == word:
        return f"'{word}'" if re.match(r"=[^']*$", word) else shlex.quote(word)
    parts = [
        chr(byte).replace("\\", "\\\\").replace("'", "\\'") if 32 <= byte < 127 else f"\\x{byte:02x}"
        for byte in os.fsencode(word)
    ]
    return f"$'{''.join(parts)}'"


# Characters that leave no mark of their own, and that `str.isprintable` lets pass all the same.
_INVISIBLE = re.compile(
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def printable(text: str) -> str:
    r"""One line of a terminal: what it would obey, or show as nothing or elsewhere, is escaped (`\x1b`).

    A control character moves the cursor or begins another line, a mark of direction makes one key read as
    another, and what has no width makes two keys look alike. Escaping twice changes nothing.
    """
    if text.isprintable() and not _INVISIBLE.search(text):
        return text
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable() and not _INVISIBLE.match(character):
        return character
    return character.encode("unicode_escape").decode()

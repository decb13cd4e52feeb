"""The next command to run, as data: errors carry it, and the face that reports them puts it into words.

A store that raises KeyNotFound knows the key, and nothing of flags, shells or Python: it says
`next=run("log", key)`. The command line makes a line of it that can be pasted (`cli.suggest`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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

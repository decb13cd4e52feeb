"""Ask for confirmation before what cannot be undone."""

from __future__ import annotations

import sys

from somactl.cli.signals import abortable
from somactl.cli.text import takes_more
from somactl.errors import UsageError
from somactl.suggestion import printable


def may_ask(*, no_input: bool) -> bool:
    """Whether a person is there to answer, and may be asked."""
    return not no_input and sys.stdin.isatty()


def confirm(question: str, *, unless_done: str) -> None:
    """Go on if the answer is yes; raises UsageError otherwise: `not confirmed; nothing was removed`."""
    sys.stderr.write(f"{printable(question)} [y/N]: ")
    sys.stderr.flush()
    refused = UsageError(f"not confirmed; nothing was {unless_done}", hint="answer y, or pass --yes")
    if not takes_more(sys.stderr):
        raise refused  # a question that was not seen has no answer
    with abortable(reads=True):
        answer = sys.stdin.readline()
    if answer.strip().lower() not in ("y", "yes"):
        raise refused

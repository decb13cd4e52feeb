"""Ask before what cannot be taken back is done."""

from __future__ import annotations

import sys

import typer

from somactl.errors import UsageError


def may_ask(*, no_input: bool) -> bool:
    """Whether somebody is there to answer, and may be asked."""
    return not no_input and sys.stdin.isatty()


def confirm(question: str, *, unless_done: str) -> None:
    """Go on if the answer is yes; raises UsageError otherwise: `not confirmed; nothing was removed`."""
    if not typer.confirm(question, err=True):
        raise UsageError(f"not confirmed; nothing was {unless_done}")

"""The options by which an operator says what may be done to a matrix on its way in."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from somactl.errors import UsageError

OnClampable = Annotated[
    Literal["clamp", "refuse"], typer.Option(help="What to do with one that is negative within tolerance.")
]
Clamp = Annotated[bool, typer.Option("--clamp", help="Store the nearest density matrix of a violated one.")]
MaxMove = Annotated[
    float | None, typer.Option(metavar="D", help="... if it is no farther than D (Frobenius norm).")
]
Normalize = Annotated[bool, typer.Option("--normalize", help="Divide by the trace first.")]
Readdress = Annotated[bool, typer.Option("--readdress", help="Accept an envelope written for another key.")]


def check_clamp(clamp: bool, max_move: float | None) -> None:
    """Raises UsageError unless both are given or none, and the distance is one."""
    if clamp != (max_move is not None):
        raise UsageError("--clamp and --max-move D go together", hint="say how far a matrix may be moved")
    if max_move is not None and not 0 <= max_move < float("inf"):
        raise UsageError("--max-move wants a distance of 0 or more")

"""The options by which an operator says what may be done to a matrix on its way in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

from somactl.core.verdict import Tolerances
from somactl.errors import UsageError
from somactl.operations.admission import Policy


@dataclass(frozen=True, slots=True)
class Repair:
    """The options of a command that brings matrices in."""

    on_clampable: Annotated[
        Literal["clamp", "refuse"],
        typer.Option(help="What to do with one that is negative within tolerance."),
    ] = "clamp"
    clamp: Annotated[
        bool, typer.Option("--clamp", help="Store the nearest density matrix of a violated one.")
    ] = False
    max_move: Annotated[
        float | None, typer.Option(metavar="D", help="... if it is no farther than D (Frobenius norm).")
    ] = None
    normalize: Annotated[bool, typer.Option("--normalize", help="Divide by the trace first.")] = False
    readdress: Annotated[
        bool, typer.Option("--readdress", help="Accept an envelope written for another key.")
    ] = False

    def policy(self, tolerances: Tolerances, **more: Any) -> Policy:
        """The policy that they ask for, with `tolerances`, which a setting may give as well.

        Raises UsageError unless --clamp and --max-move are both given or neither, and the distance is one.
        """
        if self.clamp != (self.max_move is not None):
            raise UsageError("--clamp and --max-move D go together", hint="say how far a matrix may be moved")
        if self.max_move is not None and not 0 <= self.max_move < float("inf"):
            raise UsageError("--max-move wants a distance of 0 or more")
        return Policy(
            on_clampable=self.on_clampable,
            clamp=self.clamp,
            max_move=self.max_move or 0.0,
            normalize=self.normalize,
            readdress=self.readdress,
            tolerances=tolerances,
            **more,
        )

"""The options of every command that works long: how fast it may be, when it holds back, when it ends."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, ClassVar

import typer

from somactl.cli.command import Session
from somactl.cli.quantities import parse_duration, parse_latency, parse_rate
from somactl.operations.jobs.pace import Pace
from somactl.store.contract import Store


@dataclass(frozen=True, slots=True)
class PaceOptions:
    """The options that say how gentle a run is."""

    PANEL: ClassVar[str] = "How gently"

    rate: Annotated[
        str | None, typer.Option(metavar="N|NMB", help="Read at most so many keys, or MB, per second.")
    ] = None
    max_latency: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Hold back while the store takes longer to answer: 20ms."),
    ] = None
    pause_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Pause between batches while this file exists.")
    ] = None
    max_duration: Annotated[
        str | None, typer.Option(metavar="TIME", help="Stop after 90s, 30m, 8h, at a checkpoint.")
    ] = None

    @property
    def given(self) -> dict[str, str]:
        """By name, to repeat them in what a report suggests."""
        every = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in every.items() if value}

    def pace(self, session: Session, store: Store | None = None) -> Pace:
        """The pace that they ask for; the progress that is shown says what holds it back.

        `store` is asked for its latency; it may be given later, as `probe`. Raises UsageError for what is no
        rate or time.
        """
        items, bytes_ = parse_rate(self.rate, "--rate") if self.rate else (None, None)
        latency = parse_latency(self.max_latency, "--max-latency") if self.max_latency else None
        seconds = parse_duration(self.max_duration, "--max-duration") if self.max_duration else None
        progress = session.out.progress
        pace = Pace(
            items,
            bytes_,
            self.pause_file,
            seconds,
            remark=session.out.talk,
            max_latency=latency,
            probe=None if store is None else store.head,
            waiting=progress.again,
        )
        progress.reason = lambda: pace.reason
        return pace

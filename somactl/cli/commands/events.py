"""Commands about events: list them, and say whether they wait to be published."""

from __future__ import annotations

from typing import Annotated

import typer

from somactl.cli.command import Session, command
from somactl.operations import events
from somactl.report import Report


@command()
async def events_ls(
    session: Session,
    after: Annotated[int, typer.Option(metavar="N", min=0, help="Only versions after this one.")] = 0,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many, oldest first.")] = 50,
) -> Report:
    """List events in the order of versions: one for each commit, with the worst of its verdicts."""
    async with session.store(read_only=True) as store:
        report = await events.ls(store, after, limit)
    if report.after < report.head:
        report.next = session.command("events ls", after=report.after)
    return report


@command(epilog="Exit 0: none was lost. 4: events were dropped unpublished since publishing was turned on.")
async def events_status(session: Session) -> Report:
    """Say up to which version events were published, and how many wait for it."""
    async with session.store(read_only=True) as store:
        return await events.status(store)


@command(changes=True)
async def events_enable(
    session: Session,
    keep: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="How many unpublished ones are kept beyond their time.",
            show_default="100000; or as it is",
        ),
    ] = None,
) -> Report:
    """Have events wait until they were published, however old they are. A relay's first mark does so too.

    Where more than --keep wait, the oldest are dropped when their time is over, and that is said. To enable
    publishing again takes note of what was dropped.
    """
    async with session.store() as store:
        report = await events.enable(store, keep)
    report.undo = session.command("events disable")
    return report


@command(changes=True)
async def events_disable(session: Session) -> Report:
    """Have events wait no longer: age alone removes them, published or not."""
    async with session.store() as store:
        before = await events.status(store)
        report = await events.disable(store)
    if before.publishing:
        report.undo = session.command("events enable", keep=before.keep)
    return report

"""Commands for a store as a whole: init, compact, doctor."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from somactl.cli.command import Session, command
from somactl.cli.confirm import confirm, may_ask
from somactl.cli.output import counting
from somactl.errors import UsageError
from somactl.operations import maintenance
from somactl.operations.doctor import examine
from somactl.report import Report
from somactl.suggestion import again

KEEPS = "10, on Redis alone 2; or as it is", "7 days; or as it is", "30 days; or as it is"


@command(changes=True)
async def init(
    session: Session,
    keep_versions: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="How many versions of a key are kept.", show_default=KEEPS[0]),
    ] = None,
    keep_days: Annotated[
        float | None,
        typer.Option(
            metavar="DAYS", min=0, help="How long superseded and deleted ones are.", show_default=KEEPS[1]
        ),
    ] = None,
    keep_records_days: Annotated[
        float | None,
        typer.Option(metavar="DAYS", min=0, help="How long commit records are.", show_default=KEEPS[2]),
    ] = None,
    new_incarnation: Annotated[
        bool, typer.Option("--new-incarnation", help="After the restore of a backup.")
    ] = False,
) -> Report:
    """Create the store's schema and the namespace where missing; or change the namespace's retention.

    --new-incarnation says that the data were restored from a backup: values and versions stay, and no cache
    and no --expect from before the restore can match them by accident.
    """
    async with session.store() as store:
        return await maintenance.init(
            store,
            versions=keep_versions,
            seconds=_days(keep_days),
            record_seconds=_days(keep_records_days),
            new_incarnation=new_incarnation,
        )


@command(changes=True, pushes=True)
async def compact(
    session: Session,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    no_input: Annotated[bool, typer.Option("--no-input", help="Never ask: refuse without --yes.")] = False,
) -> Report:
    """Remove for good what the namespace's retention no longer keeps. Live values are never touched."""
    from somactl.runtime import jobs

    if not (dry_run or yes):
        _ask(session, no_input=no_input)
    async with (
        session.store(read_only=dry_run) as store,
        counting(session.out.progress, partial(maintenance.compactable, store)),
    ):
        report = await maintenance.compact(store, jobs(), dry_run=dry_run, watch=session.out.progress)
        session.done.append(report)
    if dry_run:
        report.next = session.command("compact", yes=True)
    return report


@command(epilog="Exit 0: no problem. 3: a problem. 4: something could not be looked at. 13: unreachable.")
async def doctor(session: Session) -> Report:
    """Look at every configured service and say what to do about what is wrong. Changes nothing."""
    async with session.store(read_only=True) as store:
        return await examine(store, session.line)


def _ask(session: Session, *, no_input: bool) -> None:
    """What compact removes cannot be brought back, so the operator has to say yes."""
    if not may_ask(no_input=no_input):
        raise UsageError("compact removes history for good", next=[again(dry_run=True), again(yes=True)])
    confirm(f"Remove what namespace {session.settings.namespace!r} need not keep?", unless_done="removed")


def _days(days: float | None) -> float | None:
    return None if days is None else days * 86_400.0

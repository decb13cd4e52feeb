"""The command that deletes what the control plane ordered: prune."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from somactl.cli import inputs
from somactl.cli.command import Session, command
from somactl.cli.confirm import confirm, may_ask
from somactl.cli.quantities import parse_duration, parse_size
from somactl.core.retention import Goal
from somactl.errors import SomactlError, UsageError
from somactl.operations import prune as operation
from somactl.operations.prune import PruneRequest
from somactl.report import PruneReport, Report
from somactl.suggestion import Suggestion, again


@command(
    changes=True,
    pushes=True,
    epilog="Exit 0: done. 4: the namespace is over its limit still, or the order was not followed to its "
    "end. 2: wrong usage. 11: the order may not be carried out. 12: keys were written meanwhile, or since "
    "their ranking (--changed fail). 13: the store failed. 14: a commit may have been written; run it again. "
    "15: a key, or the namespace, is not there (--missing fail). 16: another run has the order. 130, 143: "
    "ended by a signal. Whatever the code, a report says what was deleted.",
)
async def prune(
    session: Session,
    order_file: Annotated[
        str | None, typer.Option("--order-file", metavar="FILE|-", help="The order, in any of its forms.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Delete the first N that apply.")] = None,
    keep: Annotated[
        int | None, typer.Option(metavar="N", help="Delete until the namespace has no more than N keys.")
    ] = None,
    max_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Delete until it takes no more: bytes, 10MB, 10MiB.")
    ] = None,
    grace: Annotated[
        str, typer.Option(metavar="TIME", help="How long it can be restored; 0 frees it at once.")
    ] = "24h",
    order_id: Annotated[
        str | None, typer.Option("--order-id", metavar="ID", help="The same id never prunes twice.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(metavar="N", help="Commit N items at a time, usually 2000; needed beyond 10000."),
    ] = None,
    missing: Annotated[
        Literal["ignore", "fail"], typer.Option(help="What a key that is not there means.")
    ] = "ignore",
    changed: Annotated[
        Literal["skip", "fail"], typer.Option(help="What a key written since its ranking means.")
    ] = "skip",
    fallback: Annotated[
        Literal["oldest"] | None, typer.Option(help="Choose keys where no order came.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    no_input: Annotated[
        bool, typer.Option("--no-input", help="Never ask; --grace 0 then needs --yes.")
    ] = False,
) -> Report:
    """Delete keys in the order the control plane gave, recoverably, until a limit is met.

    Run again under the same id, an order that is done gives its first report, and one that was interrupted
    goes on. Without --order-file it only compares the namespace with --keep or --max-bytes.
    """
    request = PruneRequest(
        goal=_goal(limit, keep, max_bytes),
        order_id=order_id,
        batch=batch,
        missing=missing,
        changed=changed,
        grace=parse_duration(grace, "--grace"),
        fallback=fallback,
        dry_run=dry_run,
        announce=lambda sent: session.out.talk(f"order {sent}"),
        watch=session.out.progress,
        each=session.out.item if session.out.mode == "ndjson" else lambda item: None,
    )
    order = None if order_file is None else inputs.read_order(order_file)
    deletes = order is not None or fallback is not None
    if deletes and not (dry_run or yes):
        _ask(session, request, asks=order_file != "-" and may_ask(no_input=no_input))
    async with session.store(read_only=dry_run) as store:
        try:
            report = await operation.prune(store, order, request)
        except SomactlError as exc:
            if "order_id" in exc.facts and order_file is not None:
                exc.next = (_go_on(request, str(exc.facts["order_id"])), *exc.next)
                if order_file == "-":
                    exc.hint = "; ".join(filter(None, [exc.hint, _FED]))
            raise
        session.done.append(report)
    if session.out.mode == "ndjson":
        report.not_applied, report.would_delete = [], []
    return _finish(session, report, request, order_file)


def _goal(limit: int | None, keep: int | None, max_bytes: str | None) -> Goal:
    given = [
        *([] if limit is None else [Goal("limit", limit)]),
        *([] if keep is None else [Goal("keep", keep)]),
        *([] if max_bytes is None else [Goal("max-bytes", parse_size(max_bytes, "--max-bytes"))]),
    ]
    if len(given) > 1:
        raise UsageError("--limit, --keep and --max-bytes do not go together", hint="give one of them")
    return given[0] if given else Goal()


def _ask(session: Session, request: PruneRequest, *, asks: bool) -> None:
    """What can be restored needs no question without a terminal; the rest always does."""
    if not asks:
        if request.grace == 0:
            raise UsageError("--grace 0 deletes for good", next=[again(dry_run=True), again(yes=True)])
        return
    how = f"restorable for {request.grace:g} s" if request.grace else "for good"
    confirm(f"Prune namespace {session.settings.namespace!r}, {how}?", unless_done="deleted")


def _finish(
    session: Session, report: PruneReport, request: PruneRequest, order_file: str | None
) -> PruneReport:
    """End with the command that undoes it, and the one that goes on, if anything can."""
    if report.deleted_keys and not report.dry_run and report.grace and report.order_id:
        report.undo = session.command("restore", commit=report.order_id)
    unfinished = report.order_id is not None and (report.dry_run or not report.complete)
    if unfinished and not report.final:
        fresh = report.dry_run and request.order_id is None
        own = report.form == "message" or fresh or order_file is None
        report.next = session.line(go_on := _go_on(request, None if own else report.order_id))
        if report.next is None:
            report.warnings.append(f"{_FED}, to {session.invocation.unfed(go_on)}")
    elif report.short_by and order_file is None:
        report.next = session.command("doctor")
    return report


_FED = "it came on standard input: give the same order again there"


def _go_on(request: PruneRequest, order_id: str | None) -> Suggestion:
    """The command that carries out the same order, or goes on with it."""
    known = {} if order_id is None else {"order_id": order_id}
    return again(dry_run=None, yes=True if request.grace == 0 else None, **known)

"""The command for a cache: cache-warm."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated

import typer

from somactl.cli.command import Session, command
from somactl.cli.output import counting
from somactl.cli.quantities import parse_rate
from somactl.operations import cache
from somactl.operations.cache import Warming
from somactl.operations.inspect import count_keys
from somactl.operations.jobs.pace import Pace
from somactl.report import Report
from somactl.suggestion import again


@command(
    changes=True,
    pushes=True,
    epilog="Exit 0: done. 3: a copy that was never committed, or a corrupt value. 4: not finished, or "
    "differences that a dry run left.",
)
async def cache_warm(
    session: Session,
    match: Annotated[str | None, typer.Option(metavar="PATTERN", help="Only keys that match.")] = None,
    rate: Annotated[
        str, typer.Option(metavar="N|NMB", help="Copy at most so many keys, or MB, per second; 0: no limit.")
    ] = "50MB",
    reconcile: Annotated[
        bool, typer.Option("--reconcile", help="Compare every copy with the authority, and mend.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Exit 0 even where no key matches.")
    ] = False,
) -> Report:
    """Copy from the store into the cache what the cache lacks, before readers ask for it.

    Commits that happen meanwhile win. It stops before the cache's memory is full.
    """
    pace = Pace(*parse_rate(rate, "--rate"))
    warming = Warming(match, pace, dry_run, allow_empty, watch=session.out.progress)
    async with session.store(read_only=dry_run) as store:
        cached = cache.cached_store(store)
        report = cache.report_for(cached, warming, reconcile=reconcile)
        try:
            async with counting(session.out.progress, partial(count_keys, cached.authority, match)):
                await (cache.reconcile if reconcile else cache.warm)(cached, warming, report)
        except asyncio.CancelledError:
            # What was done so far is worth telling; `command` adds the signal's own code.
            return cache.finish(report, ended_by="a signal")
    if dry_run:
        report.next = session.line(again(dry_run=None))
    return cache.finish(report)

"""The command for a cache: cache-warm."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import typer

from somactl.cli.command import Session, command
from somactl.operations import cache
from somactl.operations.cache import Warming
from somactl.operations.reconcile import reconcile as reconcile_all
from somactl.report import CacheWarmReport, Report
from somactl.suggestion import again

MEGABYTE = 1_000_000
PROGRESS_SECONDS = 0.1


@command(
    changes=True,
    epilog="Exit 0: done. 3: a copy that was never committed, or a corrupt value. 4: not finished, or "
    "differences that a dry run left.",
)
async def cache_warm(
    session: Session,
    match: Annotated[str | None, typer.Option(metavar="PATTERN", help="Only keys that match.")] = None,
    rate: Annotated[
        float,
        typer.Option(
            metavar="MB/S", min=0.0, help="Move no more than this; 0 for no limit.", show_default="50 MB/s"
        ),
    ] = 50.0,
    reconcile: Annotated[
        bool, typer.Option("--reconcile", help="Compare every copy with the authority, and mend.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> Report:
    """Copy from the store into the cache what the cache lacks, before readers ask for it.

    Commits that happen meanwhile win. It stops before the cache's memory is full.
    """
    warming = Warming(match, rate * MEGABYTE or None, dry_run, each=_Progress(session))
    async with session.store(read_only=dry_run) as store:
        cached = cache.cached_store(store)
        report = cache.report_for(cached, warming, reconcile=reconcile)
        try:
            await (reconcile_all if reconcile else cache.warm)(cached, warming, report)
        except asyncio.CancelledError:
            # What was done so far is worth telling; `command` adds the signal's own code.
            return cache.conclude(report, ended_by="a signal")
    if dry_run:
        report.next = session.line(again(dry_run=None))
    return cache.conclude(report)


class _Progress:
    """How far it is, on a terminal, a few times a second."""

    def __init__(self, session: Session) -> None:
        self._out = session.out
        self._last = 0.0

    def __call__(self, report: CacheWarmReport) -> None:
        now = time.monotonic()
        if now - self._last > PROGRESS_SECONDS:
            self._last = now
            megabytes = report.bytes_filled / MEGABYTE
            self._out.progress(f"{report.checked} keys, {report.filled} copied, {megabytes:.0f} MB")

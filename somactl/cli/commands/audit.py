"""The audit command: verify-psd."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Literal

import typer

from somactl.cli import inputs
from somactl.cli.command import Session, command
from somactl.cli.output import counting
from somactl.core.names import Pattern
from somactl.errors import NotFound, UsageError
from somactl.operations import verify
from somactl.operations.inspect import count_keys
from somactl.operations.jobs.progress import Progress
from somactl.operations.verify import Audit, FileInput
from somactl.report import Checked, Report, VerifyReport
from somactl.store.cached import cached
from somactl.store.contract import Store
from somactl.suggestion import again, run


@command(
    checks=True,
    epilog="Exit 0: all proven. 3: a finding. 4: nothing, or not all, was checked. 11: a file is no matrix.",
)
async def verify_psd(
    session: Session,
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY]...", help="Exact keys.")] = None,
    match: Annotated[str | None, typer.Option(metavar="PATTERN", help="All keys that match.")] = None,
    file: Annotated[list[str], typer.Option("--file", metavar="FILE|-", help="Check a file instead.")] = [],  # noqa: B006
    all_: Annotated[bool, typer.Option("--all", help="Every key of the namespace.")] = False,
    method: Annotated[
        Literal["certify", "eigen", "sampled"], typer.Option(help="certify proves; sampled can only refute.")
    ] = "certify",
    from_: Annotated[
        Literal["authority", "cache", "both"],
        typer.Option("--from", help="Where a cache is before the store: which of the two."),
    ] = "authority",
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first one that is not right.")
    ] = False,
    witness: Annotated[
        bool, typer.Option("--witness", help="Report the vector that proves a violation.")
    ] = False,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Exit 0 even where there was nothing to check.")
    ] = False,
) -> Report:
    """Prove that density matrices are Hermitian, positive semi-definite and of trace 1."""
    wants_store = bool(keys) or match is not None or all_
    if not wants_store and not file:
        raise UsageError(
            "nothing to verify",
            hint="name keys, or give --match PATTERN or --file FILE; --all takes every key",
            next=again(all_=True),
        )
    if match is not None and all_:
        raise UsageError("--match and --all do not go together")
    audit = Audit(
        tolerances=session.settings.tolerances,
        method=method,
        witness=witness,
        fail_fast=fail_fast,
        each=_Outcomes(session),
    )
    report = VerifyReport(method=method, allow_empty=allow_empty)
    files = [FileInput(name, partial(inputs.read_file, name)) for name in file]
    try:
        going = await verify.verify_files(files, audit, report)
        if wants_store and going:
            with _files_told_from_keys(keys or [], report):
                async with session.store(read_only=True) as store:
                    report.store, report.namespace = store.name, store.namespace
                    expected = partial(
                        _count, store, len(files) + len(keys or []), match, many=match is not None or all_
                    )
                    async with counting(session.out.progress, expected):
                        going = await _verify_store(store, from_, keys or [], match, all_, audit, report)
    except asyncio.CancelledError:
        # What was found so far is worth having; `command` adds the signal's own code.
        return _finish(session, report, "a signal")
    return _finish(session, report, None if going else "--fail-fast")


def _finish(session: Session, report: VerifyReport, ended_by: str | None) -> VerifyReport:
    if report.violated or report.corrupt:
        page = "invariant-violated" if report.violated else "corrupt-value"
        report.next = session.command("explain", page)
    elif report.stale or report.contradicting:
        report.next = session.command("cache-warm", reconcile=True)
    return verify.finish(report, ended_by=ended_by)


async def _count(store: Store, named: int, match: str | None, *, many: bool) -> int:
    return named + (await count_keys(store, match) if many else 0)


@contextmanager
def _files_told_from_keys(keys: Sequence[str], report: VerifyReport) -> Iterator[None]:
    """Around the search for `keys`. Raises UsageError where none is there and files are so called: it was
    `--file` that was meant."""
    files = [key for key in keys if os.path.exists(key)]
    try:
        yield
    except NotFound:
        if not files:
            raise
        raise _meant_files(files) from None
    absent = {checked.source for checked in report.results if checked.outcome == "unreadable"}
    if files and absent.issuperset(keys):
        raise _meant_files(files)


def _meant_files(files: Sequence[str]) -> UsageError:
    return UsageError(
        f"{files[0]!r} is a file, and no key of the store: a file is checked with --file",
        next=run("verify-psd", file=files),
    )


async def _verify_store(
    store: Store,
    origin: str,
    keys: Sequence[str],
    match: str | None,
    everything: bool,
    audit: Audit,
    report: VerifyReport,
) -> bool:
    """Check authority, cache or both; False if `fail_fast` ended it. An audit fills no cache."""
    pair = cached(store)
    if origin != "authority" and pair is None:
        raise UsageError(f"--from {origin}: there is no cache", hint="name one with --cache or SOMACTL_CACHE")
    going, many = True, everything or match is not None
    if origin != "cache":
        authority = pair.authority if pair else store
        going = await verify.verify_keys(authority, keys, audit, report)
        if going and many:
            going = await verify.verify_matching(authority, match, audit, report)
    if origin != "authority" and pair and going:
        pattern = Pattern("*" if match is None else match) if many else None
        going = await verify.verify_cache(pair.cache, keys, pattern, audit, report)
        if origin == "both" and going:
            going = await verify.compare_copies(pair, keys, pattern, audit, report)
    return going


class _Outcomes:
    """Prints outcomes as they come: a line each in ndjson mode, and how far the audit is."""

    def __init__(self, session: Session) -> None:
        self.out = session.out
        self.count = 0
        self.wrong = 0

    def __call__(self, checked: Checked) -> None:
        self.count += 1
        self.wrong += checked.outcome in verify.EXIT_CODES
        if self.out.mode == "ndjson":
            self.out.item(checked)
        note = f"{self.wrong} not right" if self.wrong else ""
        self.out.progress(Progress(self.count, "matrices", note=note))

"""Read-only commands: namespaces, get, ls, show, log, status."""

from __future__ import annotations

import io
import sys
from contextlib import nullcontext
from typing import Annotated, Literal

import typer

from somactl.cli.command import Session, command
from somactl.cli.output_file import is_stdout
from somactl.cli.text import numbers
from somactl.core.framing import to_text
from somactl.errors import UsageError
from somactl.operations import inspect
from somactl.operations.inspect import Reading
from somactl.report import LsReport, Report, dark_warning
from somactl.store.contract import Entry
from somactl.suggestion import again

AllowStale = Annotated[
    bool, typer.Option("--allow-stale", help="Serve the cache while the store behind it is down.")
]
Key = Annotated[str, typer.Argument(metavar="KEY", help="The exact key.")]
Version = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="As of this version of the namespace.", show_default="the newest"),
]
From = Annotated[
    Literal["any", "authority"],
    typer.Option("--from", help="Where a cache is before the store: authority asks the store itself."),
]


@command()
async def namespaces(session: Session) -> Report:
    """List the namespaces of the store."""
    async with session.store(read_only=True) as store:
        return await inspect.namespaces(store)


@command()
async def ls(
    session: Session,
    match: Annotated[str | None, typer.Option(metavar="PATTERN", help="* any run, ? one character.")] = None,
    deleted: Annotated[
        bool, typer.Option("--deleted", help="What can be brought back, and until when.")
    ] = False,
) -> Report:
    """List keys in byte order."""
    report = LsReport(namespace=session.settings.namespace, deleted=deleted)
    async with session.store(read_only=True) as store:
        report.store = store.name
        async for page in inspect.list_keys(store, match, deleted=deleted):
            report.total += len(page)
            report.stored_bytes += sum(key.bytes for key in page)
            if session.out.mode != "ndjson":
                report.keys.extend(page)
                continue
            for key in page:
                session.out.item(key)
            if session.out.closed:
                break
    return report


@command()
async def get(
    session: Session,
    key: Key,
    version: Version = None,
    to: Annotated[
        str, typer.Option(metavar="FILE", help="Where to write it.", show_default="-, standard output")
    ] = "-",
    as_: Annotated[
        Literal["envelope", "base64", "npy", "json", "text"],
        typer.Option("--as", help="The form to write; text is its numbers, a row a line."),
    ] = "envelope",
    from_: From = "any",
    allow_stale: AllowStale = False,
) -> Report:
    """Write one value to stdout or a file: as an envelope, or converted.

    With --output json the value is part of the report, as base64 of its envelope.
    """
    to = "-" if is_stdout(to) else to
    if to == "-" and as_ == "envelope" and not session.out.is_json and sys.stdout.isatty():
        raise UsageError(
            "an envelope is binary, and stdout is a terminal",
            next=again(as_="text"),
        )
    with nullcontext() if to == "-" else session.output_file(to) as target:
        async with session.store(read_only=True, fills=True, allow_stale=allow_stale) as store:
            reading = Reading(version, from_ == "authority", allow_stale)
            report, entry = await inspect.get(store, key, reading)
        if target is not None:
            target.write(_converted(entry, as_))
            target.keep()
            report.file = to
    if entry.age is not None and not session.out.is_json:
        session.out.talk(
            f"{key}: version {entry.version}, served by {entry.served_by}, {entry.age:.0f} s old"
        )
    report.format = as_
    is_raw = to == "-" and not session.out.is_json
    if report.admitted_dark and is_raw:  # what stands on stdout is the value, and nothing else
        session.out.warn(f"warning: {dark_warning(1)}")
    elif report.admitted_dark:
        report.warnings.append(dark_warning(1))
    if is_raw:
        session.out.write(_converted(entry, as_))
    elif to == "-":
        report.format, report.value = "base64", to_text(entry.data)
    return report


@command()
async def show(
    session: Session,
    key: Key,
    version: Version = None,
    check: Annotated[bool, typer.Option("--check", help="Prove the invariants now.")] = False,
    spectrum: Annotated[
        bool, typer.Option("--spectrum", help="Eigenvalues, rank, purity and entropy.")
    ] = False,
    from_: From = "any",
    allow_stale: AllowStale = False,
) -> Report:
    """Show what is known of one value: metadata, verdict, on request its spectrum.

    What --check and --spectrum find is about the store's own value, never about a cache's copy.
    """
    reading = Reading(version, from_ == "authority" or check or spectrum, allow_stale)
    async with session.store(read_only=True, fills=True, allow_stale=allow_stale) as store:
        return await inspect.show(
            store, key, reading, session.settings.tolerances, check=check, spectrum=spectrum
        )


@command()
async def log(
    session: Session,
    key: Annotated[str | None, typer.Argument(metavar="[KEY]", help="Only this key's history.")] = None,
    before: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only versions before this one.")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many, newest first.")] = 50,
) -> Report:
    """List the commits of the namespace, or the history of one key, newest first."""
    async with session.store(read_only=True) as store:
        return await inspect.log(store, key, before=before, limit=limit)


@command()
async def status(
    session: Session,
    commit_id: Annotated[str, typer.Argument(metavar="COMMIT_ID")],
    resolve: Annotated[
        bool, typer.Option("--resolve", help="If it was not seen, make sure that it never arrives.")
    ] = False,
) -> Report:
    """Say what became of a commit: committed (exit 0), aborted or not seen (exit 15).

    Of a prune order: done (0), or begun and not done (4).
    """
    from somactl.operations.status import status as status_of
    from somactl.runtime import jobs

    async with session.store(read_only=not resolve) as store:
        report = await status_of(store, commit_id, jobs(), resolve=resolve)
    order = report.order
    if report.commit.state == "unseen" and order is None:
        report.next = session.command("status", commit_id, resolve=True)
    elif order is not None and order.state == "running":
        report.warnings.append("it goes on where it is pruned again, with the same order, flags and order id")
    deleted = order is None or order.deleted_keys > 0
    for_good = order is not None and any(batch.recoverable_until is None for batch in order.batches)
    if (report.commit.state == "committed" or order is not None) and deleted and not for_good:
        report.undo = session.command("restore", commit=commit_id)
    return report


def _converted(entry: Entry, form: str) -> bytes | memoryview:
    if form == "envelope":
        return entry.data
    if form == "base64":
        return to_text(entry.data).encode() + b"\n"
    import numpy as np

    from somactl.core.envelope import deserialize_matrix

    array = deserialize_matrix(entry.data).array
    if form == "text":
        return numbers(array)
    buffer = io.BytesIO()
    if form == "npy":
        np.save(buffer, array)
        return buffer.getvalue()
    import msgspec
    import pybase64

    legacy = {
        "__np__": True,
        "data": pybase64.b64encode(array.tobytes()).decode(),
        "dtype": array.dtype.name,
        "shape": array.shape,
    }
    return msgspec.json.encode(legacy) + b"\n"

"""Commands that change matrices: commit, restore, rm."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from somactl.cli import inputs
from somactl.cli.command import Session, command
from somactl.cli.inputs import Repair
from somactl.errors import UsageError
from somactl.operations import undo
from somactl.operations.commit import Request, commit as commit_operation
from somactl.report import CommitReport, Report
from somactl.suggestion import again

Metadata = Annotated[
    list[str], typer.Option("--metadata", metavar="K=V", help="A label kept with the commit.")
]
CommitId = Annotated[
    str | None,
    typer.Option("--commit-id", metavar="ID", help="The commit's id; the same id never writes twice."),
]
ChangeKind = Annotated[
    bool, typer.Option("--change-kind", help="Let what is no rho replace a rho that is there.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Prove and encode everything; write nothing.")]
ExpectOption = Annotated[
    list[str],
    typer.Option("--expect", metavar="[KEY=]N", help="Refuse unless the key is at version N (0: absent)."),
]


@command(
    changes=True,
    checks=True,
    epilog='Without KEY=FILE, lines {"key": ..., "value": matrix or null} are read from stdin.',
)
async def commit(
    session: Session,
    *,
    puts: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=FILE...", help=".npy, .npz, an envelope or legacy JSON."),
    ] = None,
    expect: ExpectOption = [],  # noqa: B006 (typer reads the default, and it is never mutated)
    commit_id: CommitId = None,
    kind: Annotated[
        Literal["rho", "sketch", "matrix"] | None, typer.Option(help="Only a rho is held to the invariants.")
    ] = None,
    metadata: Metadata = [],  # noqa: B006
    dtype: Annotated[
        Literal["float64", "complex128", "float32", "complex64"] | None,
        typer.Option(help="Store it as this."),
    ] = None,
    layout: Annotated[
        Literal["auto", "full", "hermitian", "factor"],
        typer.Option(help="factor: FILE holds F, and rho = F F^H."),
    ] = "auto",
    compression: Annotated[Literal["none", "zstd"], typer.Option(help="Seldom worth it.")] = "none",
    repair: Repair,
    change_kind: ChangeKind = False,
    require_durability: Annotated[
        str | None,
        typer.Option(metavar="memory|replicated:K|fsync", help="Refuse a store that promises less."),
    ] = None,
    dry_run: DryRun = False,
) -> Report:
    """Commit matrices atomically, every rho proven first; all keys of it or none."""
    policy = repair.policy(
        session.settings.tolerances,
        kind=kind,
        dtype=dtype,
        layout=layout,
        compression=None if compression == "none" else compression,
    )
    request = _request(session, commit_id, metadata, dry_run, expect, change_kind, require_durability)
    if puts:
        lines = inputs.Lines(inputs.parse_puts(puts))
    elif sys.stdin.isatty():
        raise UsageError("nothing to commit", hint="give KEY=FILE, or NDJSON lines on stdin")
    else:
        lines = inputs.parse_ndjson(inputs.read_file("-"))
    async with session.store(read_only=dry_run) as store:
        report = await commit_operation(store, lines.puts, lines.deletes, request, policy, lines.bad)
        return _finish(session, report)


@command(changes=True)
async def restore(
    session: Session,
    key: Annotated[
        str | None,
        typer.Argument(metavar="[KEY]", help="The key to bring back: as it was before its last change."),
    ] = None,
    version: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="... or as of this version.")
    ] = None,
    commit: Annotated[
        str | None, typer.Option("--commit", metavar="ID", help="Undo this whole commit, or prune order.")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Of a prune, leave alone what was written since or is gone.")
    ] = False,
    expect: ExpectOption = [],  # noqa: B006
    commit_id: CommitId = None,
    change_kind: ChangeKind = False,
    metadata: Metadata = [],  # noqa: B006
    dry_run: DryRun = False,
) -> Report:
    """Bring back an older state of a key, or undo a whole commit, as a new commit.

    Undoing a commit is guarded: if any of its keys was written since, nothing happens (exit 12). A prune
    order is undone as a whole, however many commits it took.
    """
    if partial and commit is None:
        raise UsageError("--partial goes with --commit ID")
    if (key is None) == (commit is None) or (key is None and version is not None):
        raise UsageError("restore wants KEY, KEY --version N, or --commit ID")
    if commit is not None and expect:
        raise UsageError("restore --commit brings its own expectations; --expect does not go with it")
    from somactl.runtime import jobs

    request = _request(session, commit_id, metadata, dry_run, expect, change_kind)
    tolerances = session.settings.tolerances
    async with session.store(read_only=dry_run) as store:
        if commit is not None:
            report = await undo.restore_commit(store, commit, request, tolerances, jobs(), partial=partial)
        else:
            assert key is not None
            report = await undo.restore_key(store, key, version, request, tolerances)
        if report.stopped is not None and commit is not None:
            report.next = session.line(again(commit_id=report.commit_id))
        return _finish(session, report)


@command(changes=True)
async def rm(
    session: Session,
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="Exact keys.")],
    expect: ExpectOption = [],  # noqa: B006
    commit_id: CommitId = None,
    metadata: Metadata = [],  # noqa: B006
    dry_run: DryRun = False,
) -> Report:
    """Delete keys in one commit; they can be restored until retention lets go of them."""
    request = _request(session, commit_id, metadata, dry_run, expect)
    async with session.store(read_only=dry_run) as store:
        report = await undo.remove(store, keys, request)
        return _finish(session, report)


def _request(
    session: Session,
    commit_id: str | None,
    metadata: list[str],
    dry_run: bool,
    expect: list[str],
    change_kind: bool = False,
    require_durability: str | None = None,
) -> Request:
    return Request(
        commit_id=commit_id,
        user=inputs.parse_metadata(metadata),
        expected=inputs.parse_expectations(expect),
        dry_run=dry_run,
        change_kind=change_kind,
        require_durability=require_durability,
        watch=session.out.progress,
        announce=lambda sent: session.out.talk(f"commit {sent}"),
    )


def _finish(session: Session, report: CommitReport) -> CommitReport:
    """Say on stderr how far matrices were moved, and end with the command that undoes the commit."""
    if report.dry_run:
        report.next = session.line(again(dry_run=None))
    if report.version is not None:
        report.undo = session.command("restore", commit=report.commit_id)
    session.done.append(report)
    for item in report.items:
        for move in item.moves:
            session.out.talk(f"{item.key}: {move.method} moved it by {move.distance:.3e} (Frobenius norm)")
    return report

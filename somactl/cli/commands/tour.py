"""The `demo` command: a narrated tour on a database of its own."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from somactl.cli.command import Session, command
from somactl.package_data import data_file
from somactl.report import Report


@command()
async def demo(
    session: Session,
    keep: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the demo's database here, to explore it.")
    ] = None,
) -> Report:
    """A narrated tour of the main job: commit, read back, prove, clamp, refuse, conflict, undo."""
    from somactl.operations.demo import tour

    dataset = data_file("examples", "data", "digits.npz").read_bytes()
    with tempfile.TemporaryDirectory(prefix="somactl-demo-") as folder:
        path = (keep or Path(folder) / "demo.db").absolute()
        settings = replace(session.settings, store=f"sqlite:///{path}", namespace="demo", dark=False)
        inner = replace(session, settings=settings, configuration=None)  # its store is named here
        async with inner.store() as store:
            report = await tour(
                store, dataset, session.out.print if not session.out.is_json else session.out.talk
            )
    if keep is not None:
        report.next = session.command("ls", store=f"sqlite:///{keep}", namespace="demo")
    return report

"""The pages that somactl brings along: explain."""

from __future__ import annotations

import difflib
from typing import Annotated

import typer

from somactl.cli.command import Session, command
from somactl.cli.pages import Page, find, index
from somactl.errors import UsageError
from somactl.report import ExplainReport, Report
from somactl.suggestion import run

Values = Annotated[
    list[str],
    typer.Option("--with", metavar="NAME=VALUE", help="What stands for NAME in the page's commands."),
]


@command(offline=True)
async def explain(
    session: Session,
    topic: Annotated[
        str | None, typer.Argument(help="A runbook, a document, an exit code or an error; alone: the list.")
    ] = None,
    with_: Values = [],  # noqa: B006 (typer reads the default, nobody mutates it)
) -> Report:
    """Print a page: what an error or an exit code means, and what to do. Needs no store and no network.

    --store, --cache, --namespace and --config are written into the page's commands.
    """
    if topic is None:
        return ExplainReport(topic="", page="", text=index())
    page = find(topic)
    if page is None:
        raise _unknown(topic)
    return ExplainReport(topic=topic, page=page.name, text=page.text)


def _unknown(topic: str) -> UsageError:
    close = difflib.get_close_matches(topic.lower(), [t.lower() for t in Page.topics()], n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else None
    return UsageError(f"there is no page about {topic!r}", hint=hint, next=run("explain"))

"""The `explain` command: print a runbook or document, or what an exit code or error means."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated

import typer

from somactl.cli.command import Session, command
from somactl.cli.pages import Page, fill, find, index
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
        str | None,
        typer.Argument(
            metavar="[TOPIC]", help="A runbook, a document, an exit code or an error; alone: the list."
        ),
    ] = None,
    with_: Values = [],  # noqa: B006 (typer reads the default, and it is never mutated)
) -> Report:
    """Print a page: what an error or an exit code means, and what to do. Needs no store and no network.

    --store, --cache, --namespace and --config are written into the page's commands.
    """
    if topic is None:
        return ExplainReport(topic="", page="", text=index())
    page = find(topic)
    if page is None:
        raise _unknown(topic)
    shared = session.invocation.shared
    return ExplainReport(topic=topic, page=page.name, text=fill(page.text, _values(with_, shared), shared))


def _values(given: list[str], shared: Mapping[str, str]) -> dict[str, str]:
    """What stands for the words in capitals; DATABASE is the file of an SQLite store."""
    values = {}
    if shared.get("store", "").startswith("sqlite:///"):
        values["DATABASE"] = shared["store"].removeprefix("sqlite:///")
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not re.fullmatch(r"[A-Z][A-Z_]*", name):
            raise UsageError(
                f"--with {pair!r} is not NAME=VALUE", hint="NAME is a word in capitals of the page"
            )
        values[name] = value
    return values


def _unknown(topic: str) -> UsageError:
    close = difflib.get_close_matches(topic.lower(), [t.lower() for t in Page.topics()], n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else None
    return UsageError(f"there is no page about {topic!r}", hint=hint, next=run("explain"))

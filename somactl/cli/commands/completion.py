"""The `completion` command: print the completion script of a shell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from somactl.cli.command import Session, command
from somactl.report import CompletionReport, Report

SCRIPTS = Path(__file__).parent.parent / "shells"


@command(
    offline=True,
    epilog="bash, in ~/.bashrc: source <(somactl completion bash). zsh, in ~/.zshrc: source <(somactl "
    "completion zsh). fish, in ~/.config/fish/config.fish: somactl completion fish | source.",
)
async def completion(
    session: Session,
    shell: Annotated[
        Literal["bash", "zsh", "fish"], typer.Argument(metavar="SHELL", help="bash, zsh or fish.")
    ],
) -> Report:
    """Print the script that completes commands, flags, choices, namespaces, keys and commits in a shell."""
    script = (SCRIPTS / f"somactl.{shell}").read_text(encoding="utf-8")
    return CompletionReport(shell=shell, script=script)

"""The whole surface on one page: which command lives in which module.

Only the module of the command that was asked for is imported, and only that command is built; the
help page of `somactl` itself imports them all (still without numpy or a driver).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated

import typer

from somactl.cli.command import Command
from somactl.cli.output import Output, output_mode
from somactl.errors import SomactlError, UsageError

COMMANDS: dict[str, str] = {
    "init": "upkeep",
    "namespaces": "look",
    "commit": "write",
    "get": "look",
    "ls": "look",
    "show": "look",
    "log": "look",
    "status": "look",
    "restore": "write",
    "rm": "write",
    "prune": "prune",
    "compact": "upkeep",
    "verify-psd": "audit",
    "migrate-json": "migrate",
    "cache-warm": "cache",
    "doctor": "upkeep",
    "demo": "tour",
}


def run(argv: Sequence[str]) -> int:
    """Parse, run one command, return its exit code. Without a word, show the help."""
    argv = argv or ["--help"]
    mode = output_mode(argv)
    out = Output(mode)
    try:
        code = build(next((word for word in argv if not word.startswith("-")), None))(
            list(argv), prog_name="somactl", standalone_mode=False
        )
    except typer.Abort:
        code = 130
    except typer.TyperException as exc:
        usage = UsageError(exc.format_message(), hint="somactl --help, or somactl COMMAND --help")
        code = out.failure(usage)
    except SomactlError as exc:
        code = out.failure(exc)
    except Exception as exc:
        import traceback

        traceback.print_exc(file=sys.stderr)
        code = out.failure(SomactlError(f"a bug in somactl: {type(exc).__name__}: {exc}"))
    return out.close(int(code or 0))


def build(name: str | None = None) -> Callable[..., int | None]:
    """The parser for command `name`, or for all of them where there is no such command."""
    app = typer.Typer(
        name="somactl",
        help="Keep density matrices true: atomic commits, proven invariants, honest reports.",
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def root(
        version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    ) -> None:
        if version:
            from somactl import __version__

            sys.stdout.write(f"somactl {__version__}\n")
            raise typer.Exit

    for wanted in [name] if name in COMMANDS else COMMANDS:
        command = load(wanted)
        app.command(wanted, help=command.help, epilog=command.epilog)(command.callback)
    return typer.main.get_command(app)


def load(name: str) -> Command:
    """The command called `name`; importing its module is what defines it."""
    module = import_module(f"somactl.cli.commands.{COMMANDS[name]}")
    command = getattr(module, name.replace("-", "_"))
    assert isinstance(command, Command)
    return command

"""The whole surface on one page: which command lives in which module.

Only the module of the command that was asked for is imported, and only that command is built; the
help page of `somactl` itself imports them all (still without numpy or a driver).
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from somactl import config, suggestion
from somactl.address import is_address
from somactl.cli.command import Command, command_of, common_parameters, default_in_words
from somactl.cli.output import Output, output_mode
from somactl.cli.signals import Stopped, let_go
from somactl.cli.suggest import Invocation
from somactl.cli.text import on_lines
from somactl.errors import SecretExposed, SomactlError, UsageError

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
    "events ls": "events",
    "events status": "events",
    "events enable": "events",
    "events disable": "events",
    "verify-psd": "audit",
    "evidence check": "evidence",
    "evidence merge": "evidence",
    "migrate-json": "migrate",
    "migration ls": "migrate",
    "migration show": "migrate",
    "migration finalize": "migrate",
    "migration revert": "migrate",
    "migration forget": "migrate",
    "cache-warm": "cache",
    "canary-check": "canary",
    "push-metrics": "telemetry",
    "serve": "serve",
    "config": "settings",
    "doctor": "upkeep",
    "explain": "explain",
    "completion": "completion",
    "demo": "tour",
}

PUSHING = ("verify-psd", "prune", "compact", "cache-warm", "migrate-json")
"""Commands that push metrics where they are asked to."""

SERVING = ("serve",)
"""Commands that take several namespaces."""

GROUPS = {
    "events": "What each commit tells: list events, say how far they were published, have them wait for it.",
    "evidence": "What audits leave behind: check that it is intact, add up that of shards.",
    "migration": "What migrate-json began: list it, look at it, finalize, revert or forget it.",
}
"""What the first words of commands with two of them are about."""

HIDDEN = "(an address, not shown)"
_LOGIN = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/@]*:[^\s@]+@", re.IGNORECASE)
"""Of whatever scheme: an installed package may open stores by its own."""

_JUDGED = ("--store", "--cache", "--metadata", "--source", "--gateway", "--ping")

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}


def _print_version(asked: bool) -> None:
    if asked:
        from somactl import __version__

        sys.stdout.write(f"somactl {__version__}\n")
        raise typer.Exit


VERSION = Annotated[
    bool,
    typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit."),
]


def run(argv: Sequence[str]) -> int:
    """Parse, run one command, return its exit code. Without a word, show the help."""
    argv = argv or ["--help"]
    out = Output(output_mode(argv))
    try:
        refuse_exposed(argv)
        code = build()(list(argv), prog_name="somactl", standalone_mode=False)
    except typer.Abort:
        code = 130
    except Stopped as stopped:
        let_go(stopped.exit_code)
        code = out.failure(stopped.error(), _beginning(argv))
    except typer.TyperException as exc:
        during = _beginning(argv)
        usage = _usage_error(exc, during.command)
        usage.message = without_addresses(usage.message, argv)
        code = out.failure(usage, during, code=_pushed(argv, during.command, usage.exit_code, out))
    except SomactlError as exc:
        during = _beginning(argv)
        code = out.failure(exc, during, code=_pushed(argv, during.command, exc.exit_code, out))
    except Exception as exc:
        import traceback

        words = [*argv, *config.address_texts()]
        sys.stderr.write(on_lines(without_addresses(traceback.format_exc(), words).split("\n")))
        message = f"a bug in somactl: {type(exc).__name__}: {exc}"
        code = out.failure(SomactlError(without_addresses(message, words)), _beginning(argv))
    return out.close(int(code or 0))


def _pushed(argv: Sequence[str], command: str, code: int, out: Output) -> int:
    """`code`, pushed where the command line that was refused asks for it."""
    from somactl.cli.pushing import refused

    return refused(argv, command, code, out) if command in PUSHING else code


def _beginning(argv: Sequence[str]) -> Invocation:
    """What is known of a command line that was not parsed: the command, and what it would have worked on.

    An address that was not understood, or holds a secret, is left out.
    """
    flags = {
        name: value_of(argv, *flags)
        for name, flags in {
            "store": ("--store",),
            "namespace": ("--namespace", "-n"),
            "config": ("--config",),
        }.items()
    }
    found = config.examine(flags).resolved
    names = (name for pair in pairwise([*argv, ""]) for name in (" ".join(pair), pair[0]))
    return Invocation(
        command=next((name for name in names if name in COMMANDS or name in GROUPS), ""),
        shared={"config": flags["config"]} if flags["config"] else {},
        store=found["store"].shown or "",
        namespace=found["namespace"].shown or "",
        dark=found["dark_mode"].value is True,
    )


def value_of(argv: Sequence[str], *flags: str) -> str | None:
    """The word that follows one of the flags, or is attached to it by `=`."""
    for word, following in zip(argv, [*argv[1:], None], strict=True):
        flag, attached, value = word.partition("=")
        if flag in flags:
            return value if attached else following
    return None


def _usage_error(exc: typer.TyperException, command: str) -> UsageError:
    """What the parser refused, with the help page that answers it; the nearest options are the hint."""
    context = getattr(exc, "ctx", None)
    command = command if context is None else command_of(context)
    help_page = suggestion.run(command, help=True)
    possible = getattr(exc, "possibilities", None)
    if possible:
        names = " or ".join(possible)  # the nearest first
        return UsageError(f"{getattr(exc, 'message', exc)}. Did you mean {names}?", next=help_page)
    return UsageError(exc.format_message(), next=help_page)


def build() -> Callable[..., int | None]:
    """The parser. Of the commands it builds those that are asked for."""
    app = typer.Typer(
        name="somactl",
        cls=_Surface,
        help="Keep density matrices true: atomic commits, proven invariants, honest reports.",
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings=HELP_OPTIONS,
    )
    app.callback()(_root())
    parser: Callable[..., int | None] = _with_defaults_in_words(typer.main.get_command(app))
    return parser


def _root() -> Callable[..., None]:
    """What stands before the command: the options that all share, which a command takes as its defaults."""

    def root(context: typer.Context, **given: Any) -> None:
        del given["version"]  # which has been answered
        context.default_map = _defaults(given)

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("context", kind, annotation=typer.Context),
        *common_parameters(),
        inspect.Parameter("version", kind, default=False, annotation=VERSION),
    ]
    root.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    root.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return root


def _defaults(given: dict[str, Any]) -> dict[str, Any]:
    """`given` for every command, as the parser looks for it: those of a group stand in one of their own."""
    found: dict[str, Any] = {}
    for name in COMMANDS:
        group, _, word = name.rpartition(" ")
        several = [given["namespace"]] if given["namespace"] else None
        defaults = {**given, "namespace": several} if name in SERVING else given
        (found.setdefault(group, {}) if group else found)[word] = defaults
    return found


def _with_defaults_in_words(parser: Any) -> Any:
    """The parser whose help pages say defaults as docs/CLI.md does."""
    for option in parser.params:
        words = default_in_words(getattr(option, "show_default", False), option.default)
        if words:
            option.help, option.show_default = f"{option.help} Default: {words}.", False
    return parser


class _Surface(TyperGroup):
    """All commands by name; each is imported and built when it is looked up."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = _Commands()  # type: ignore[assignment]

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)


class _Commands(Mapping[str, Any]):
    """name -> the parser of that command, or of that group; of those whose names begin with `group`."""

    def __init__(self, group: str = "") -> None:
        self._group = group

    def __getitem__(self, name: str) -> Any:
        if name not in list(self):
            raise KeyError(name)
        full = f"{self._group} {name}".strip()
        if full in GROUPS:
            app = typer.Typer(name=name, cls=_Surface, help=GROUPS[full], add_completion=False)
            app.callback()(lambda: None)
            group: Any = typer.main.get_command(app)
            group.commands, group.context_settings = _Commands(full), HELP_OPTIONS
            return group
        command = load(full)
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        settings = {"context_settings": HELP_OPTIONS, "help": command.help, "epilog": command.epilog}
        app.command(name, **settings)(command.callback)  # type: ignore[arg-type]
        return _with_defaults_in_words(typer.main.get_command(app))

    def __iter__(self) -> Iterator[str]:
        before = f"{self._group} ".lstrip()
        known = [name.removeprefix(before) for name in COMMANDS if name.startswith(before)]
        return iter(dict.fromkeys(name.partition(" ")[0] for name in known))

    def __len__(self) -> int:
        return len(list(iter(self)))


def load(name: str) -> Command:
    """The command called `name`; importing its module is what defines it. KeyError where there is none."""
    module = import_module(f"somactl.cli.commands.{COMMANDS[name]}")
    command = getattr(module, name.replace("-", "_").replace(" ", "_"))
    assert isinstance(command, Command)
    return command


def refuse_exposed(argv: Sequence[str]) -> None:
    """Raise SecretExposed for a URL with a password that stands among the words of a command.

    It would be taken for a key or a file and then be named in messages. Where a URL belongs it is judged as
    one, and what metadata say is their author's business.
    """
    if "migrate-json" in argv:
        return
    for before, word in zip(("", *argv), argv, strict=False):
        if not word.startswith("-") and before not in _JUDGED and _LOGIN.search(word):
            raise SecretExposed(
                "a URL with a password stands on the command line, which is visible to every process",
                hint="put the URL into SOMACTL_STORE or SOMACTL_CACHE, and change the password",
            )


def without_addresses(message: str, words: Iterable[str]) -> str:
    """`message`, with every one of `words` that is meant as an address, or ends in one, left out."""
    found = {part for word in words for part in (word, word.partition("=")[2]) if is_address(part)}
    for word in sorted(found, key=len, reverse=True):
        for spelling in (word, repr(word)[1:-1]):
            message = message.replace(spelling, HIDDEN)
    return message

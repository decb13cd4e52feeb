"""What every command shares: the common options, and the one place that reports failure."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, get_args, get_type_hints

import typer

from somactl import config
from somactl.address import public
from somactl.cli.output import Output, Standing
from somactl.cli.output_file import OutputFile
from somactl.cli.signals import SIGNALLED, Stopped, let_go, run_until_done
from somactl.cli.suggest import Invocation
from somactl.config import DEFAULT_STORE, Configuration, Settings
from somactl.errors import SomactlError
from somactl.report import Degraded, MigrateReport, Report, decide
from somactl.store.calls import Heard
from somactl.store.contract import Store
from somactl.suggestion import Suggestion, command_line, run as to_run

if TYPE_CHECKING:
    from somactl.cli.pushing import Options, Pushing

P = ParamSpec("P")

STORE = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="Where the matrices live.", show_default=DEFAULT_STORE),
]
CACHE = Annotated[
    str | None, typer.Option("--cache", metavar="URL", help="A Redis in front of it.", show_default="none")
]
NAMESPACE = Annotated[
    str | None,
    typer.Option("--namespace", "-n", metavar="NAME", help="Whose matrices.", show_default="default"),
]
OUTPUT = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="table|json|ndjson", help="How to report.", show_default="table"),
]
CONFIG = Annotated[
    str | None,
    typer.Option("--config", metavar="FILE", help="A file with settings, TOML or YAML (.yaml, .yml)."),
]
QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="On success, print only what was asked for.")]

COMMON: dict[str, tuple[Any, Any]] = {
    "store": (STORE, None),
    "cache": (CACHE, None),
    "namespace": (NAMESPACE, None),
    "output": (OUTPUT, None),
    "config": (CONFIG, None),
    "quiet": (QUIET, False),
}
SEVERAL_NAMESPACES = Annotated[
    list[str] | None,
    typer.Option(
        "--namespace", "-n", metavar="NAME", help="Whose matrices; may be repeated.", show_default="default"
    ),
]


LOCATE_SECONDS = 1.0
"""How long a command that has done its work waits to be told where the namespace is."""
_SECONDS = re.compile(r" for \d+ s")
PUSHING = "pushing"
"""The group of options of a job about its metrics."""
_NEVER_TOLD = ("ping",)
"""Options whose value may be a secret, and which a command that is run by hand does not need."""
_WHERE = ("store", "cache", "namespace", "config")


@dataclass(frozen=True, slots=True)
class Session:
    """One command's surroundings: settings, output, and what of its command line a suggestion repeats.

    tolerances names those that the command line gives, which a setting may give as well; configuration says
    where each setting comes from. pushing is what the command does about its metrics when it ends.
    degraded collects what failed in the stores that the command opened, while it went on without.
    heard is what the stores have said in passing: the time, and where the namespace is.
    namespaces are those of a command that takes several: the first is that of the settings.
    done holds the report of work that came to its end, from that moment on: a signal that comes while the
    stores are closed cannot make it untrue.
    """

    settings: Settings
    out: Output
    invocation: Invocation = field(default_factory=Invocation)
    tolerances: tuple[str, ...] = ()
    configuration: Configuration | None = None
    pushing: Pushing | None = None
    degraded: list[Degraded] = field(default_factory=list)
    done: list[Report] = field(default_factory=list)
    heard: Heard = field(default_factory=Heard)
    namespaces: tuple[str, ...] = ()

    @asynccontextmanager
    async def store(
        self, *, read_only: bool = False, fills: bool | None = None, allow_stale: bool = False
    ) -> AsyncIterator[Store]:
        from somactl.runtime import open_store
        from somactl.store.calls import client_name, hearing, listening

        client_name.set(f"somactl {self.invocation.command} {os.getpid()}")
        absent = self._absent_default_file()
        with listening(Waiting(self.out)) if self.out.is_watched else nullcontext(), hearing(self.heard):
            async with open_store(
                self.settings, read_only=read_only, fills=fills, allow_stale=allow_stale
            ) as store:
                try:
                    yield self._metered(store)
                    if not (self.settings.cache and read_only):  # a cache may have spared a look at the store
                        await self._locate(store)
                finally:
                    self._announce(absent)
                    self.degraded.extend(_degraded(store))

    def _metered(self, store: Store) -> Store:
        """The store, whose latencies are noted where they are to be pushed."""
        if self.pushing is None or self.pushing.latencies is None:
            return store
        from somactl.store.metered import Metered

        return Metered(store, self.pushing.latencies)

    def pushed(self, code: int, report: Report | None = None) -> int:
        """The exit code of a command that earned `code`, once its metrics are pushed, if they are to be."""
        if self.pushing is None:
            return code
        now, degraded = self.heard.last, bool(self.degraded)
        return self.pushing.end(code, report, out=self.out, now=now, degraded=degraded)

    async def _locate(self, store: Store) -> None:
        """Ask where the namespace is, and for the time, unless the command has learnt that in passing."""
        if self.heard.version is None:
            with suppress(SomactlError, TimeoutError):
                async with asyncio.timeout(LOCATE_SECONDS):
                    await store.head()

    def date(self, report: Report) -> None:
        """Note in the report where and when it was made, by the store's clock, and whether in the dark."""
        report.dark = self.settings.dark
        if not report.store or (isinstance(report, MigrateReport) and report.dry_run):
            return
        report.address = self.invocation.store
        report.started_at, report.ended_at = self.heard.first, self.heard.last
        report.namespace_version = self.heard.version
        report.incarnation = report.incarnation or self.heard.incarnation

    def _absent_default_file(self) -> str | None:
        """The database that nothing has named, if it is not there yet."""
        from somactl.address import parse

        found = self.configuration.resolved["store"] if self.configuration else None
        if found is None or found.origin.kind != "default":
            return None
        path = parse(self.settings.store).path
        return None if os.path.exists(path) else path

    def _announce(self, absent: str | None) -> None:
        if absent is not None and os.path.exists(absent):
            self.out.talk(f"created {absent}: no store was named (--store, SOMACTL_STORE)")

    def output_file(self, path: str, *, spare: Sequence[str] = ()) -> OutputFile:
        """The file at `path`, to be written; never one of `spare`, nor the store's own database."""
        from somactl.address import parse

        database = parse(self.settings.store).path
        own = [database + suffix for suffix in ("", "-wal", "-shm", "-journal")] if database else []
        return OutputFile(path, spare=[*own, *spare])

    def command(self, command: str, *arguments: str, **options: Any) -> str:
        """A command line an operator can paste: with the store and namespace that this one was given.

        `session.command("restore", key, version=3)`: options as in `suggestion.run`.
        """
        return command_line(to_run(command, *arguments, **options), self.invocation.shared)

    def line(self, suggestion: Suggestion) -> str | None:
        """The suggestion as a line to paste; None for `again()` of a command that read standard input."""
        return self.invocation.line(suggestion)


def _degraded(store: Store) -> Iterator[Degraded]:
    """What the store does without at the end of a command, and what it did without while that ran."""
    now = store.degradations
    for each in now:
        yield Degraded(service=each.service, breaker=each.breaker, detail=each.detail)
    for past in store.degraded_since_opened:
        if not any(past.service == each.service and past.detail in each.detail for each in now):
            yield Degraded(service=past.service, breaker="closed", detail=f"{past.detail}; it has recovered")


class Waiting:
    """Tells on a terminal what is waited for: each thing once, however often it is heard of."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._told: set[str] = set()

    def __call__(self, what: str) -> None:
        known = _SECONDS.sub("", what)
        if known not in self._told:
            self._told.add(known)
            self._out.talk(f"waiting for {what}")


@dataclass(frozen=True, slots=True)
class Command:
    """One command: what typer calls, its help, and whether it is there for what it changes."""

    callback: Callable[..., int]
    help: str
    epilog: str | None = None
    changes: bool = False


def default_in_words(shown: bool | str | None, default: Any) -> str:
    """An option's default as its help says it: in the words declared for it, else as it would be typed."""
    if isinstance(shown, str):
        return shown
    told = default is not None and not isinstance(default, bool | list) and default != inspect.Parameter.empty
    return str(default) if told and shown is not False else ""


def command(
    *,
    epilog: str | None = None,
    changes: bool = False,
    offline: bool = False,
    checks: bool = False,
    pushes: bool = False,
    serves: bool = False,
) -> Callable[[Callable[Concatenate[Session, P], Coroutine[Any, Any, Report]]], Command]:
    """Make a command of `async def f(session, ...) -> Report`, adding the common options to its own.

    A parameter whose type is a dataclass stands for the options that are its fields.

    The report's code becomes the exit code; a SomactlError becomes one message and its code. With `changes`
    it is there for what it does: if it succeeds, --quiet leaves its table out. With `offline` it works
    whatever the settings say, since it is what explains them, and has the defaults where one is broken. With
    `checks` it checks matrices, and takes the tolerances of the invariants as options. With `pushes` it is a
    job, which pushes metrics if it is asked to, however it ends. With `serves` it lives long: it takes
    several namespaces, and runs on the fastest event loop there is.
    """

    def decorate(function: Callable[Concatenate[Session, P], Coroutine[Any, Any, Report]]) -> Command:
        groups = _groups(function, pushes=pushes)

        def callback(context: typer.Context, **arguments: Any) -> int:
            common = {name: arguments.pop(name) for name in COMMON}
            for name, group in groups.items():
                own = {each.name for each in fields(group)} & arguments.keys()
                arguments[name] = group(**{each: arguments.pop(each) for each in own})
            options = arguments.pop(PUSHING, None) if pushes else arguments.get(PUSHING)
            pushing = None if options is None else _pushing(options, context, common, arguments)
            if pushing is None:
                return run(context, common, arguments, None)
            return pushing.around(lambda: run(context, common, arguments, pushing))

        def run(
            context: typer.Context,
            common: dict[str, Any],
            arguments: dict[str, Any],
            pushing: Pushing | None,
        ) -> int:
            tolerances = {name: arguments.pop(name) for name in config.TOLERANCES if name in arguments}
            names = common["namespace"] if serves else [common["namespace"]]
            found = config.examine({**common, **tolerances, "namespace": names[0] if names else None})
            found.require(offline=offline)
            settings = found.settings
            out = Output(settings.output, quiet=common["quiet"], color=settings.color)
            given = tuple(name for name, value in tolerances.items() if value is not None)
            several = _validated(settings.namespace, names) if serves else ()
            during = _invocation(context, common, settings)
            session = Session(settings, out, during, given, found, pushing, namespaces=several)
            work = function(session, **arguments)  # type: ignore[call-arg]
            try:
                report = run_until_done(work, session.done, fastest_loop() if serves else None)
            except SomactlError as exc:
                return _failed(session, exc)
            report.degrade(session.degraded)
            session.date(report)
            return session.pushed(_print(session, report, changes=changes), report)

        callback.__name__ = function.__name__
        callback.__doc__ = function.__doc__
        callback.__signature__ = _signature(function, groups, checks=checks, serves=serves)  # type: ignore[attr-defined]
        callback.__annotations__ = {
            name: parameter.annotation
            for name, parameter in callback.__signature__.parameters.items()  # type: ignore[attr-defined]
        }
        return Command(callback, inspect.cleandoc(function.__doc__ or ""), epilog, changes)

    return decorate


def _validated(first: str, names: Sequence[str] | None) -> tuple[str, ...]:
    """The namespaces of a command that takes several, each once. Raises ConfigurationError."""
    return (*dict.fromkeys((first, *(config.load({"namespace": each}).namespace for each in names or ()))),)


def fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the loop of a process that lives long; None for the usual one, where uvloop is missing."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    return new_event_loop


def _pushing(
    options: Options, context: typer.Context, common: dict[str, Any], arguments: dict[str, Any]
) -> Pushing | None:
    """What the command does about its metrics; None where that is nothing."""
    from somactl.cli.pushing import begin

    pushing = begin(options, command_of(context), common)
    with suppress(SomactlError):  # the command itself refuses what is no shard
        shares = [getattr(group, "share", None) for group in arguments.values()]
        if pushing is not None:
            pushing.shard = next((str(share) for share in shares if share is not None), None)
    return pushing


def _failed(session: Session, error: SomactlError) -> int:
    from somactl.cli.render import degraded_line

    let_go(error.exit_code)
    for part in session.degraded:
        session.out.warn(degraded_line(part))
    code = session.pushed(error.exit_code)  # what stands last on stderr is the error
    return session.out.close(session.out.failure(error, session.invocation, code=code))


def _print(session: Session, report: Report, *, changes: bool) -> int:
    """Print the report; the exit code, also of one that could not be printed or took too long to."""
    dry_run = getattr(report, "dry_run", False)
    is_change = (changes and not dry_run) or getattr(report, "file", None) is not None
    standing = Standing(report, is_change, session.invocation)
    if report.code in SIGNALLED:
        let_go(report.code)
    try:
        session.out.report(report, asked_for=not changes or dry_run)
        return session.out.close(report.code, standing)
    except Stopped as stopped:
        let_go(stopped.exit_code)
        error = type(stopped.error())("stopped while the result was printed")
        return session.out.unprinted(error, decide((*report.codes, stopped.exit_code)), standing)


def _groups(function: Callable[..., Any], *, pushes: bool) -> dict[str, Any]:
    """The parameters of a command that stand for several options, by their name."""
    own = list(get_type_hints(function).items())[1:]
    found: dict[str, Any] = {name: hint for name, hint in own if is_dataclass(hint)}
    if pushes:
        from somactl.cli.pushing import PushOptions

        found[PUSHING] = PushOptions
    return found


def _signature(
    function: Callable[..., Any], groups: dict[str, Any], *, checks: bool, serves: bool
) -> inspect.Signature:
    """That of what typer calls: the common options behind the command's own, and no groups."""
    kind = inspect.Parameter.KEYWORD_ONLY
    hints = get_type_hints(function, include_extras=True)
    own: list[inspect.Parameter] = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.name not in groups:
            own.append(parameter.replace(annotation=hints[parameter.name]))
            continue
        own += _members(groups[parameter.name])
    if PUSHING in groups and PUSHING not in hints:
        own += _members(groups[PUSHING])
    context = inspect.Parameter("context", kind, annotation=typer.Context)
    tolerances = _tolerance_parameters() if checks else []
    common = common_parameters()
    if serves:
        common = [p.replace(annotation=SEVERAL_NAMESPACES) if p.name == "namespace" else p for p in common]
    every = [context, *(p.replace(kind=kind) for p in own), *tolerances, *common]
    return inspect.Signature(every, return_annotation=int)


def _members(group: Any) -> Iterator[inspect.Parameter]:
    """The options that a group stands for, under its own heading on the help page if it has a `PANEL`."""
    hints, kind = get_type_hints(group, include_extras=True), inspect.Parameter.KEYWORD_ONLY
    for each in fields(group):
        default = each.default if each.default_factory is MISSING else each.default_factory()
        for option in get_args(hints[each.name])[1:]:
            option.rich_help_panel = getattr(group, "PANEL", None)
        yield inspect.Parameter(each.name, kind, default=default, annotation=hints[each.name])


def _tolerance_parameters() -> list[inspect.Parameter]:
    found = []
    for name, setting in config.TOLERANCES.items():
        words = f"{setting.effect[0].upper()}{setting.effect[1:]}."
        option = typer.Option(setting.flag, metavar="EPS", help=words, show_default=setting.default)
        annotation = Annotated[float | None, option]
        kind = inspect.Parameter.KEYWORD_ONLY
        found.append(inspect.Parameter(name, kind, default=None, annotation=annotation))
    return found


def common_parameters() -> list[inspect.Parameter]:
    """The options of every command, which may stand before its name as well."""
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in COMMON.items()
    ]


def command_of(context: typer.Context | None) -> str:
    """The words of the command line that name the command: `ls`, `migration ls`."""
    return context.command_path.partition(" ")[2] if context is not None else ""


def _invocation(context: typer.Context, common: dict[str, Any], settings: Settings) -> Invocation:
    """What the command line gave, which is what a suggestion repeats."""
    arguments: list[str] = []
    options: dict[str, Any] = {}
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name in COMMON or name in _NEVER_TOLD or source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[name]
        if parameter.param_type_name == "argument":
            arguments += map(str, value if isinstance(value, list | tuple) else [value])
        else:
            options[name] = value
    return Invocation(
        command=command_of(context),
        arguments=tuple(arguments),
        options=options,
        shared={name: common[name] for name in _WHERE if common[name]},
        store=public(settings.store),
        namespace=settings.namespace,
        dark=settings.dark,
    )

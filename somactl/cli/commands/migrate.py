"""The commands for the old service's values: migrate-json, and what follows it up."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any, BinaryIO

import typer

from somactl.cli.command import Session, command
from somactl.cli.confirm import confirm, may_ask
from somactl.cli.inputs import Repair
from somactl.cli.migration import Lines, MigrationWatcher, Wanted, follow_up
from somactl.cli.pacing import PaceOptions
from somactl.cli.signals import abortable
from somactl.errors import InputRejected, InvalidFile, OutcomeUnknown, PlanStale, StoreUnavailable, UsageError
from somactl.legacy import tally
from somactl.legacy.copying import copy, inspect
from somactl.legacy.finalize import finalize
from somactl.legacy.journal import Journal, recorded
from somactl.legacy.plan import Plan, PlanWriter
from somactl.legacy.request import MigrationContext, MigrationRequest
from somactl.legacy.revert import forget, revert
from somactl.legacy.source.contract import Source
from somactl.legacy.source.ndjson import NdjsonSource
from somactl.legacy.values import A_LIST, AN_OBJECT
from somactl.operations.admission import Policy
from somactl.report import MigrateReport, MigrationsReport, Report
from somactl.store.contract import Store
from somactl.suggestion import Suggestion, again

Migration = Annotated[
    str, typer.Argument(metavar="ID", help="Its id, as reports and `migration ls` tell it.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
NoInput = Annotated[bool, typer.Option("--no-input", help="Never ask: refuse without --yes.")]
SourceOption = Annotated[
    list[str],
    typer.Option("--source", metavar="SOURCE", help="Where its values are, if that was not written down."),
]
_CODES = "Exit 0: done. 3: a matrix was rejected or is in conflict. 4: not finished, or left alone."
_FED = "the values came on standard input: give the same lines again"


@command(changes=True, checks=True, pushes=True, epilog=_CODES)
async def migrate_json(
    session: Session,
    *,
    source: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE]...",
            help="postgresql://HOST/DB?table=kv_store, redis://HOST, files ([KEY=]FILE.json), env:NAME; "
            "without one, NDJSON lines on stdin.",
        ),
    ] = None,
    wanted: Wanted,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    plan_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="With --dry-run: write the plan here.")
    ] = None,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="With --dry-run: exit 0 even where the source has no value.")
    ] = False,
    apply: Annotated[
        str | None, typer.Option(metavar="PLAN", help="Carry out exactly this plan, or refuse it.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier run stopped.")] = False,
    repair: Repair,
    pace: PaceOptions,
) -> Report:
    """Bring the old service's JSON values into the store; their source changes only when it is finalized."""
    request = wanted.request(repair.policy(session.settings.tolerances))
    lines = Lines(session, [] if source is None or source == ["-"] else source, request, pace.given)
    if not source and sys.stdin.isatty():
        raise UsageError("no source is named", hint="name one, or pipe NDJSON lines into stdin")
    modes = {"--dry-run": dry_run, "--apply": apply is not None, "--resume": resume}
    chosen = [name for name, given in modes.items() if given]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)} do not go together")
    if not dry_run and (plan_file or allow_empty):
        raise UsageError(f"{'--plan-file' if plan_file else '--allow-empty'} goes with --dry-run")
    run = _Run(session, lines, pace, MigrationWatcher(session))
    if dry_run:
        return await run.inspect(plan_file, allow_empty=allow_empty)
    if apply is None:
        return await run.copy(resume=resume)
    plain = MigrationRequest(policy=Policy(tolerances=session.settings.tolerances))
    if session.tolerances or request != plain:
        raise UsageError("what is asked for stands in the plan; --apply takes no other options for it")
    return await run.apply(apply)


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of migrate-json."""

    session: Session
    lines: Lines
    pace: PaceOptions
    watcher: MigrationWatcher

    @asynccontextmanager
    async def _opened(self, *, dry: bool = False) -> AsyncIterator[tuple[Source, Store]]:
        async with (
            _opened_source(self.session, self.lines.source, read_only=True) as source,
            self.session.store(read_only=dry) as store,
        ):
            yield source, store

    def _context(self, source: Source, store: Store, request: MigrationRequest) -> MigrationContext:
        from somactl.runtime import lasting_words

        pace, words = self.pace.pace(self.session, store), lasting_words(self.lines.source)
        return MigrationContext(source, store, request, pace, self.watcher, words, self.watcher.lists)

    async def inspect(self, plan_file: str | None, *, allow_empty: bool) -> MigrateReport:
        lines = self.lines
        read = [word.rpartition("=")[2] for word in lines.source]
        async with AsyncExitStack() as stack:
            plan = stack.enter_context(self.session.output_file(plan_file, spare=read)) if plan_file else None
            source, store = await stack.enter_async_context(self._opened(dry=True))
            context = self._context(source, store, lines.request)
            if plan is None:
                report = await inspect(context)
            else:
                writer = PlanWriter(plan.write, context)
                report = await inspect(context, writer.add)
                if report.complete:
                    writer.seal()
                    plan.keep()
                else:
                    report.warnings.append(f"no plan was written to {plan_file}")
        if report.complete and not report.values and not allow_empty:
            report.complete = False
            report.finish(*(set(report.codes) - {0}), 4)
            found = (
                "the source has no value" if lines.request.match is None else "no key of the source matches"
            )
            report.warnings.append(
                f"nothing was checked: {found}; where that is to be expected, say so with --allow-empty"
            )
        if report.complete:
            lines.suggest(report, lines.apply(plan_file) if plan_file else lines.again())
        _warn(report, lines.request)
        return report

    async def copy(self, *, resume: bool) -> MigrateReport:
        async with self._opened() as (source, store):
            context = self._context(source, store, self.lines.request)
            report = await self._resumable(copy(context, resume=resume), again(resume=True))
            _warn(report, context.request)
            self.session.done.append(report)
        return self._finished(report, source, self.lines.again(resume=True))

    async def apply(self, path: str) -> MigrateReport:
        async with self._opened() as (source, store):
            with _opened_plan(path) as file:
                plan = Plan(file, path)
                plan.refuse_other(source.identity, store.namespace)
                context = self._context(source, store, plan.request)
                try:
                    report = await self._resumable(copy(context, plan=plan), again())
                except PlanStale as exc:
                    lines = replace(self.lines, request=plan.request)
                    exc.next = (lines.plan_again(path),) if lines.source else ()
                    raise
            self.session.done.append(report)
        return self._finished(report, source, self.lines.apply(path))

    async def _resumable(self, work: Awaitable[MigrateReport], onwards: Suggestion) -> MigrateReport:
        try:
            return await work
        except (StoreUnavailable, OutcomeUnknown) as exc:
            begun = self.watcher.has_begun or isinstance(exc, OutcomeUnknown)
            exc.next = (*exc.next, onwards if begun else again())
            if not self.lines.source:
                flag = ", with --resume" if begun and dict(onwards.options).get("resume") else ""
                exc.hint = "; ".join(filter(None, [exc.hint, _FED + flag]))
            raise

    def _finished(self, report: MigrateReport, source: Source, onwards: str) -> MigrateReport:
        """With the commands to go on and to take it back."""
        migration = report.migration
        if report.phase != "planned" and migration is not None:  # else it was stopped before anything began
            report.undo = follow_up(self.session, "revert", migration, self.pace)
        if not report.complete:
            self.lines.suggest(
                report, onwards if report.phase != "planned" else onwards.replace(" --resume", "")
            )
        elif migration is not None and source.replaceable:
            verb = "forget" if report.phase == "finalized" else "finalize"
            report.next = follow_up(self.session, verb, migration, self.pace)
        return report


def _warn(report: MigrateReport, request: MigrationRequest) -> None:
    """Matrices inside of values are left where they are unless they are asked for, and asked for rightly."""
    pointers = request.selection.pointers
    for pointer in pointers if report.complete and report.values and not request.selection.discover else ():
        if pointer not in report.pointers:
            report.warnings.append(f"no value has a matrix at {pointer!r}")
    reasons = (f"not-a-matrix: {reason}" for reason in (AN_OBJECT, A_LIST))
    count = sum(report.reasons[reason].count for reason in reasons if reason in report.reasons)
    if count and not pointers and not request.selection.discover:
        report.warnings.append(
            f"not looked into: {count} objects or lists; --discover finds the matrices inside of them"
        )


@command()
async def migration_ls(session: Session) -> Report:
    """List the migrations of the namespace: where each one is, what it counted, and how long ago."""
    async with session.store(read_only=True) as store:
        found = await recorded(store)
        return MigrationsReport(store=store.name, namespace=store.namespace, migrations=found)


@command()
async def migration_show(session: Session, migration: Migration) -> Report:
    """Show a migration: what its last pass found and did, by outcome and reason, from its own record."""
    watcher = MigrationWatcher(session)
    async with session.store(read_only=True) as store:
        journal = await Journal.open(store, migration)
        report = await tally.of_journal(journal, watcher, listing=watcher.lists)
    phase = report.phase
    verb = {"copied": "finalize", "finalizing": "finalize", "reverting": "revert"}.get(phase, "forget")
    if phase == "copying":
        _migrate_again(session, report, journal, resume=journal.state.plan is None)
    else:
        report.next = follow_up(session, verb, migration, PaceOptions())
    return tally.finish(report)


@command(changes=True, epilog=_CODES)
async def migration_finalize(
    session: Session,
    *,
    migration: Migration,
    source: SourceOption = [],  # noqa: B006
    yes: Yes = False,
    no_input: NoInput = False,
    pace: PaceOptions,
) -> Report:
    """Take out of the source what is safe in the store; the original bytes are kept there."""
    _ask("migration finalize", "takes the migrated matrices out of the source", "taken out", yes, no_input)
    watcher = MigrationWatcher(session)
    async with session.store() as store:
        journal = await Journal.open(store, migration)
        async with _source_of(session, journal, source) as opened:
            if opened is None:
                raise _unknown_source(journal)
            report = await finalize(opened, store, journal, pace.pace(session, store), watcher)
        session.done.append(report)
    report.undo = follow_up(session, "revert", migration, pace)
    report.next = follow_up(session, "forget" if report.complete else "finalize", migration, pace)
    return report


@command(changes=True, epilog=_CODES)
async def migration_revert(
    session: Session,
    *,
    migration: Migration,
    source: SourceOption = [],  # noqa: B006
    yes: Yes = False,
    no_input: NoInput = False,
    pace: PaceOptions,
) -> Report:
    """Undo a migration, finalized or not: put the source back as it was, and delete the migrated matrices."""
    what = "puts the source back as it was, and deletes the migrated matrices"
    _ask("migration revert", what, "put back", yes, no_input)
    watcher = MigrationWatcher(session)
    async with session.store() as store:
        journal = await Journal.open(store, migration)
        async with _source_of(session, journal, source) as opened:
            if opened is None and await anext(journal.originals(), None) is not None:
                raise _unknown_source(journal)
            report = await revert(opened, store, journal, pace.pace(session, store), watcher, watcher.left)
        session.done.append(report)
    if report.complete:
        _migrate_again(session, report, journal)
    else:
        report.next = follow_up(session, "revert", migration, pace)
    return report


@command(changes=True)
async def migration_forget(
    session: Session, migration: Migration, yes: Yes = False, no_input: NoInput = False
) -> Report:
    """Drop the record of a finished migration with its original bytes: it cannot be reverted any more."""
    _ask("migration forget", "drops the original bytes for good", "dropped", yes, no_input)
    async with session.store() as store:
        return await forget(store, migration)


def _ask(verb: str, what: str, done: str, yes: bool, no_input: bool) -> None:
    """What can be done again needs no question where no person is there to answer; the rest always does."""
    if yes:
        return
    if may_ask(no_input=no_input):
        confirm(f"{verb} {what}. Go on?", unless_done=done)
    elif verb != "migration revert":
        raise UsageError(f"{verb} {what}", next=again(yes=True))


def _migrate_again(session: Session, report: MigrateReport, journal: Journal, **more: Any) -> None:
    """Suggest the command that the migration was made with, where its record tells it."""
    state = journal.state
    if state.words or state.name == NdjsonSource.name:
        with suppress(InputRejected):  # of another somactl, whose requests are not ours
            lines = Lines(session, state.words, MigrationRequest.from_wire(state.asked))
            lines.suggest(report, lines.again(**more))


@asynccontextmanager
async def _source_of(
    session: Session, journal: Journal, words: Sequence[str]
) -> AsyncIterator[Source | None]:
    """The source of a migration, to be changed; None where it is not known. UsageError for another one."""
    state = journal.state
    words = words or state.words
    if not words:
        yield None
        return
    async with _opened_source(session, words, read_only=False) as source:
        if source.identity != state.source:
            raise UsageError(f"migration {journal.id} is one of {state.source}, not of this source")
        yield source


def _unknown_source(journal: Journal) -> UsageError:
    state = journal.state
    if state.name == NdjsonSource.name:
        return UsageError(f"{state.name}: what came by a pipe cannot be replaced where it came from")
    return UsageError(
        f"migration {journal.id} is one of {state.name}, and where that is was not written down",
        hint=f"name the one it came from with --source: {state.source}",
    )


@asynccontextmanager
async def _opened_source(session: Session, words: Sequence[str], *, read_only: bool) -> AsyncIterator[Source]:
    """What the words name. A signal ends the reading of standard input at once."""
    from somactl.runtime import open_source

    async with AsyncExitStack() as stack:
        with nullcontext() if words else abortable(reads=True):
            opening = open_source(
                words,
                stdin=sys.stdin.buffer,
                read_only=read_only,
                retry_seconds=session.settings.retry_seconds,
            )
            source = await stack.enter_async_context(opening)
        yield source


@contextmanager
def _opened_plan(path: str) -> Iterator[BinaryIO]:
    try:
        with abortable(reads=True):  # it can be a pipe
            file = open(path, "rb")  # noqa: SIM115 (closed below; an error of opening is told apart)
    except OSError as exc:
        raise InvalidFile(f"{path}: {(exc.strerror or 'cannot be read').lower()}") from None
    with file:
        yield file

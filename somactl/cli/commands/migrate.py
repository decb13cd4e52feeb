"""The command for the old service's values: migrate-json."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext, suppress
from typing import Annotated, BinaryIO, Literal

import typer

from somactl.cli import repair_options
from somactl.cli.command import Session, command
from somactl.cli.confirm import confirm, may_ask
from somactl.cli.migration_watcher import MigrationWatcher
from somactl.cli.migration_words import Words
from somactl.cli.quantities import parse_duration, parse_rate
from somactl.cli.signals import abortable
from somactl.core.json_pointer import parse_pointer
from somactl.errors import InputRejected, InvalidFile, OutcomeUnknown, PlanStale, StoreUnavailable, UsageError
from somactl.legacy.context import MigrationContext, MigrationRequest
from somactl.legacy.copying import copy, inspect
from somactl.legacy.examine import Selection
from somactl.legacy.finalize import finalize as finalize_migration
from somactl.legacy.journal import Journal, find
from somactl.legacy.plan import FORMAT as PLAN_FORMAT, Head, Plan, PlanWriter
from somactl.legacy.revert import forget_named, revert as revert_migration
from somactl.legacy.source.contract import Source
from somactl.legacy.source.ndjson import NdjsonSource
from somactl.legacy.values import A_LIST, AN_OBJECT
from somactl.operations.admission import Policy
from somactl.operations.jobs.pace import Pace
from somactl.report import MigrateReport, Report
from somactl.suggestion import again


@command(
    changes=True,
    checks=True,
    epilog="Exit 0: done. 3: a matrix was rejected or is in conflict. 4: not finished, or left alone.",
)
async def migrate_json(
    session: Session,
    source: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE]...",
            help="postgresql://HOST/DB?table=kv_store, redis://HOST, files ([KEY=]FILE.json), env:NAME; "
            "without one, NDJSON lines on stdin.",
        ),
    ] = None,
    match: Annotated[str | None, typer.Option(metavar="PATTERN", help="Only keys that match.")] = None,
    pointer: Annotated[
        list[str], typer.Option("--pointer", metavar="/PATH", help="Look at this node of each value.")
    ] = [],  # noqa: B006
    discover: Annotated[bool, typer.Option("--discover", help="Look at every node of each value.")] = False,
    kind: Annotated[
        Literal["auto", "rho", "sketch", "matrix"], typer.Option(help="What the matrices are taken for.")
    ] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    plan_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="With --dry-run: write the plan here.")
    ] = None,
    apply: Annotated[
        str | None, typer.Option(metavar="PLAN", help="Carry out exactly this plan, or refuse it.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier run stopped.")] = False,
    finalize: Annotated[
        bool, typer.Option("--finalize", help="Take out of the source what is safe in the store.")
    ] = False,
    revert: Annotated[bool, typer.Option("--revert", help="Undo the migration, finalized or not.")] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Drop the original bytes: it cannot be reverted any more.")
    ] = False,
    migration: Annotated[
        str | None, typer.Option(metavar="ID", help="Which one, if there are several of this source.")
    ] = None,
    on_clampable: repair_options.OnClampable = "clamp",
    clamp: repair_options.Clamp = False,
    max_move: repair_options.MaxMove = None,
    normalize: repair_options.Normalize = False,
    readdress: repair_options.Readdress = False,
    rate: Annotated[
        str | None, typer.Option(metavar="N|NMB", help="Read at most so many values, or MB, per second.")
    ] = None,
    pause_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Pause between batches while this file exists.")
    ] = None,
    max_duration: Annotated[
        str | None, typer.Option(metavar="TIME", help="Stop after 90s, 30m, 8h, at a checkpoint.")
    ] = None,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="With --dry-run: exit 0 even where the source has no value.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    no_input: Annotated[bool, typer.Option("--no-input", help="Never ask: refuse without --yes.")] = False,
) -> Report:
    """Bring the old service's JSON values into the store; nothing in the source changes before --finalize."""
    repair_options.check_clamp(clamp, max_move)
    policy = Policy(
        on_clampable=on_clampable,
        clamp=clamp,
        max_move=max_move or 0.0,
        normalize=normalize,
        readdress=readdress,
        tolerances=session.settings.tolerances,
    )
    for each in pointer:
        parse_pointer(each)  # a UsageError, and not only when the first value is looked at
    values_rate, bytes_rate = parse_rate(rate, "--rate") if rate else (None, None)
    seconds = parse_duration(max_duration, "--max-duration") if max_duration else None
    pace = Pace(values_rate, bytes_rate, pause_file, seconds, remark=session.out.talk)
    pacing = {"rate": rate, "pause_file": pause_file, "max_duration": max_duration}
    words = Words(
        session,
        [] if source is None or source == ["-"] else source,
        MigrationRequest(match, Selection(tuple(pointer), discover, kind), policy),
        {name: str(value) for name, value in pacing.items() if value},
    )
    if not source and migration is None and sys.stdin.isatty():
        raise UsageError("no source is named", hint="name one, or pipe NDJSON lines into stdin")
    modes = {
        "--dry-run": dry_run,
        "--apply": apply,
        "--finalize": finalize,
        "--revert": revert,
        "--forget": forget,
    }
    chosen = [name for name, given in modes.items() if given]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)} do not go together")
    if plan_file and not dry_run:
        raise UsageError("--plan-file goes with --dry-run")
    if resume and chosen not in ([], ["--apply"]):
        why = "which begins nothing" if dry_run else "which goes on by itself"
        raise UsageError(f"--resume does not go with {chosen[0]}, {why}")
    if finalize or revert or forget:
        _refuse_more(words, chosen[0])
        if not yes:
            _ask(chosen[0], no_input=no_input)
        return await _follow_up(session, words, chosen[0], migration, pace)
    if migration is not None:
        raise UsageError("--migration names one that exists; it goes with --finalize, --revert and --forget")
    if dry_run:
        return await _dry_run(session, words, pace, plan_file, allow_empty=allow_empty)
    if apply is not None and words.has_wishes:
        raise UsageError("what is asked for stands in the plan; --apply takes no other wishes")
    return await _copy(session, words, pace, apply, resume=resume)


_FED = "the values came on standard input: give the same lines again"


def _refuse_more(words: Words, verb: str) -> None:
    if words.has_wishes:
        raise UsageError(
            f"{verb} is about all that the migration did; it takes no other wishes",
            hint="leave them out; --migration ID names one of several",
        )
    if verb == "--forget" and words.pace:
        flag = "--" + next(iter(words.pace)).replace("_", "-")
        raise UsageError(f"{flag} does not go with --forget, which reads no values")


def _ask(verb: str, *, no_input: bool) -> None:
    """What can be done again needs no question without a terminal; the rest always does."""
    what, done = {
        "--finalize": ("takes the migrated matrices out of the source", "taken out"),
        "--revert": ("puts the source back as it was, and deletes the migrated matrices", "put back"),
        "--forget": ("drops the original bytes for good", "dropped"),
    }[verb]
    if may_ask(no_input=no_input):
        confirm(f"{verb} {what}. Go on?", unless_done=done)
    elif verb != "--revert":
        raise UsageError(f"{verb} {what}", next=again(yes=True))


async def _dry_run(
    session: Session, words: Words, pace: Pace, plan_file: str | None, *, allow_empty: bool
) -> Report:
    read = [word.rpartition("=")[2] for word in words.source]
    async with AsyncExitStack() as stack:
        plan = stack.enter_context(session.output_file(plan_file, spare=read)) if plan_file else None
        source = await stack.enter_async_context(_source(session, words.source, read_only=True))
        store = await stack.enter_async_context(session.store(read_only=True))
        run = MigrationContext(
            source, store, words.wishes, pace, MigrationWatcher(session), listing=_lists(session)
        )
        if plan is None:
            report = await inspect(run)
        else:
            head = Head(PLAN_FORMAT, source.identity, source.name, store.namespace, words.wishes.as_json())
            writer = PlanWriter(plan.write, head)
            report = await inspect(run, writer.add)
            if report.complete:
                writer.seal()
                plan.keep()
            else:
                report.warnings.append(f"no plan was written to {plan_file}")
    if report.complete and not report.values and not allow_empty:
        report.complete = False
        report.finish(*(set(report.codes) - {0}), 4)
        found = "the source has no value" if words.wishes.match is None else "no key of the source matches"
        report.warnings.append(
            f"nothing was checked: {found}; where that is to be expected, say so with --allow-empty"
        )
    if report.complete:
        words.suggest(report, words.apply(plan_file) if plan_file else words.again())
    _warn(report, words.wishes.selection)
    return report


async def _copy(session: Session, words: Words, pace: Pace, apply: str | None, *, resume: bool) -> Report:
    watcher = MigrationWatcher(session)
    async with (
        _source(session, words.source, read_only=True) as source,
        session.store() as store,
    ):
        if apply is None:
            run = MigrationContext(source, store, words.wishes, pace, watcher, words.lasting, _lists(session))
            report = await _resumable(copy(run, resume=resume), watcher, words)
            _warn(report, words.wishes.selection)
        else:
            with _opened(apply) as file:
                plan = Plan(file, apply)
                plan.refuse_other(source.identity, store.namespace)
                asked = MigrationRequest.from_json(plan.head.asked)
                run = MigrationContext(source, store, asked, pace, watcher, words.lasting, _lists(session))
                try:
                    report = await _resumable(copy(run, resume=resume, plan=plan), watcher, words)
                except PlanStale as exc:
                    exc.next = (words.of(words.source, asked).plan_again(apply),) if words.source else ()
                    raise
        session.done.append(report)
    begun = report.phase != "planned"  # else it was stopped while the plan was compared
    if begun and report.migration is not None:
        report.undo = words.follow_up("revert", report.migration)
    if report.complete and report.migration is not None:
        then = "forget" if report.phase == "finalized" else "finalize"
        report.next = words.follow_up(then, report.migration) if source.replaceable else None
    else:
        line = words.again(resume=begun) if apply is None else words.apply(apply, resume=begun)
        words.suggest(report, line)
    return report


def _warn(report: MigrateReport, selection: Selection) -> None:
    """Warn of matrices inside of values, which stay there unless --discover or --pointer names them."""
    if selection.discover:
        return
    if selection.pointers:
        for pointer in selection.pointers:
            if report.complete and report.values and pointer not in report.pointers:
                report.warnings.append(f"no value has a matrix at {pointer!r}")
        return
    reasons = (f"not-a-matrix: {reason}" for reason in (AN_OBJECT, A_LIST))
    count = sum(report.reasons[reason].count for reason in reasons if reason in report.reasons)
    if count:
        report.warnings.append(
            f"not looked into: {count} objects or lists; --discover finds the matrices inside of them"
        )


async def _resumable(
    work: Awaitable[MigrateReport], watcher: MigrationWatcher, words: Words
) -> MigrateReport:
    try:
        return await work
    except (StoreUnavailable, OutcomeUnknown) as exc:
        begun = watcher.has_begun or isinstance(exc, OutcomeUnknown)
        exc.next = (*exc.next, again(resume=True) if begun else again())
        if not words.source:
            exc.hint = "; ".join(filter(None, [exc.hint, f"{_FED}, with --resume" if begun else _FED]))
        raise


async def _follow_up(
    session: Session, words: Words, verb: str, migration: str | None, pace: Pace
) -> MigrateReport:
    async with AsyncExitStack() as stack:
        source: Source | None = None
        if words.source or migration is None:
            # Also for --forget, which changes nothing there: only so may files be named that are gone by now.
            source = await stack.enter_async_context(_source(session, words.source, read_only=False))
        store = await stack.enter_async_context(session.store())
        identity = source.identity if source else ""
        if verb == "--forget":
            return await forget_named(store, identity, migration)
        journal = await find(store, identity, migration)
        if source is None:
            words = words.of(journal.state.words, words.wishes)
            if words.source and (verb == "--finalize" or await anext(journal.originals(), None) is not None):
                source = await stack.enter_async_context(_source(session, words.source, read_only=False))
                await find(store, source.identity, journal.id)  # the words may name another one by now
        watcher = MigrationWatcher(session)
        if verb == "--revert":
            report = await revert_migration(source, store, journal, pace, watcher, watcher.left)
        elif source is None:
            raise UsageError(
                f"migration {journal.id} is one of {journal.state.name}, and no source is named",
                hint=f"name the one it came from: {journal.state.source}",
            )
        else:
            report = await finalize_migration(source, store, journal, pace, watcher)
            report.undo = words.follow_up("revert", journal.id)
        session.done.append(report)
    _go_on(report, words, verb, journal)
    return report


def _go_on(report: MigrateReport, words: Words, verb: str, journal: Journal) -> None:
    if not report.complete:
        report.next = words.follow_up(verb.removeprefix("--"), journal.id)
    elif verb == "--finalize":
        report.next = words.follow_up("forget", journal.id)
    elif words.source or journal.state.name == NdjsonSource.name:  # else it is a URL, which was not named
        with suppress(InputRejected):  # of another somactl, whose wishes are not ours
            asked = words.of(words.source, MigrationRequest.from_json(journal.state.asked))
            asked.suggest(report, asked.again())


def _lists(session: Session) -> bool:
    """Whether the report lists rows; in ndjson mode they come a line each, while they are found."""
    return session.out.mode != "ndjson"


@asynccontextmanager
async def _source(session: Session, words: Sequence[str], *, read_only: bool) -> AsyncIterator[Source]:
    """What the words name. A signal ends the reading of standard input at once."""
    from somactl.runtime import open_source

    async with AsyncExitStack() as stack:
        with nullcontext() if words else abortable():
            opening = open_source(
                words,
                stdin=sys.stdin.buffer,
                read_only=read_only,
                retry_seconds=session.settings.retry_seconds,
            )
            source = await stack.enter_async_context(opening)
        yield source


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    try:
        with abortable():  # it can be a pipe
            file = open(path, "rb")  # noqa: SIM115 (closed below; an error of opening is told apart)
    except OSError as exc:
        raise InvalidFile(f"{path}: {(exc.strerror or 'cannot be read').lower()}") from None
    with file:
        yield file

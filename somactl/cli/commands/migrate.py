"""The command for the old service's values: migrate-json."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import fields
from types import TracebackType
from typing import Annotated, Any, BinaryIO, Literal, Self

import typer

from somactl.cli.command import Session, command
from somactl.cli.quantities import parse_duration, parse_rate
from somactl.cli.signals import abortable
from somactl.cli.text import printable, size
from somactl.core.json_pointer import parse_pointer
from somactl.core.legacy_values import A_LIST, AN_OBJECT
from somactl.errors import InvalidFile, OutcomeUnknown, StoreUnavailable, UsageError
from somactl.operations.admission import Policy
from somactl.operations.migration.copying import copy, look
from somactl.operations.migration.examine import Selection, shown
from somactl.operations.migration.finalize import finalize as finalize_migration
from somactl.operations.migration.journal import find
from somactl.operations.migration.pace import Pace
from somactl.operations.migration.plan import FORMAT as PLAN_FORMAT
from somactl.operations.migration.plan import Head, Plan, PlanWriter
from somactl.operations.migration.revert import forget as forget_migration
from somactl.operations.migration.revert import revert as revert_migration
from somactl.operations.migration.run import Progress, Run, Wishes
from somactl.report import MigrateReport, Report
from somactl.source.contract import Source

PROGRESS_SECONDS = 0.2
LOG_SECONDS = 30.0  # where stderr is no terminal


@command(epilog="Exit 0: done. 3: a matrix was rejected or is in conflict. 4: not finished, or left alone.")
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
    on_clampable: Annotated[
        Literal["clamp", "refuse"],
        typer.Option(help="What to do with one that is negative within tolerance."),
    ] = "clamp",
    clamp: Annotated[
        bool, typer.Option("--clamp", help="Store the nearest density matrix of a violated one.")
    ] = False,
    max_move: Annotated[
        float | None, typer.Option(metavar="D", help="... if it is no farther than D (Frobenius norm).")
    ] = None,
    normalize: Annotated[bool, typer.Option("--normalize", help="Divide by the trace first.")] = False,
    readdress: Annotated[
        bool, typer.Option("--readdress", help="Accept an envelope written for another key.")
    ] = False,
    rate: Annotated[
        str | None, typer.Option(metavar="N|NMB", help="Read at most so many values, or MB, per second.")
    ] = None,
    pause_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Pause between batches while this file exists.")
    ] = None,
    max_duration: Annotated[
        str | None, typer.Option(metavar="TIME", help="Stop after 90s, 30m, 8h, at a checkpoint.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    no_input: Annotated[bool, typer.Option("--no-input", help="Never ask: refuse without --yes.")] = False,
    psd_tolerance: Annotated[float | None, typer.Option(metavar="EPS", show_default="1e-8")] = None,
    trace_tolerance: Annotated[float | None, typer.Option(metavar="EPS", show_default="1e-8")] = None,
    hermitian_tolerance: Annotated[float | None, typer.Option(metavar="EPS", show_default="1e-8")] = None,
) -> Report:
    """Bring the old service's JSON values into the store; nothing in the source changes before --finalize."""
    if clamp != (max_move is not None):
        raise UsageError("--clamp and --max-move D go together", hint="say how far a matrix may be moved")
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
    wishes = Wishes(match, Selection(tuple(pointer), discover, kind), policy)
    words = _Words(session, source or [], wishes)
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
        raise UsageError(f"--resume does not go with {chosen[0]}, which goes on by itself")
    values_rate, bytes_rate = parse_rate(rate, "--rate") if rate else (None, None)
    pace = Pace(
        values_rate,
        bytes_rate,
        pause_file,
        parse_duration(max_duration, "--max-duration") if max_duration else None,
        remark=session.out.talk,
    )
    if finalize or revert or forget:
        if words.has_wishes:
            raise UsageError(
                f"{chosen[0]} is about all that the migration did; it takes no other wishes",
                hint="leave them out; --migration ID names one of several",
            )
        if (finalize or forget) and not yes:
            _ask(
                session, "--finalize" if finalize else "--forget", may_ask=not no_input and sys.stdin.isatty()
            )
        return await _follow_up(session, words, chosen[0], migration, pace)
    if migration is not None:
        raise UsageError("--migration names one that exists; it goes with --finalize, --revert and --forget")
    if dry_run:
        return await _dry_run(session, words, pace, plan_file)
    return await _copy(session, words, pace, apply, resume=resume)


class _Words:
    """The command line, to repeat it in what the report suggests."""

    def __init__(self, session: Session, source: Sequence[str], wishes: Wishes) -> None:
        self.source = [] if list(source) == ["-"] else list(source)
        self.wishes = wishes
        self._session = session

    @property
    def has_wishes(self) -> bool:
        """Whether the command line asks for anything in particular."""
        plain = Wishes(policy=Policy(tolerances=self._session.settings.tolerances))
        return self.wishes.as_json() != plain.as_json()

    def with_wishes(self, *more: str) -> str:
        w, s, p = self.wishes, self.wishes.selection, self.wishes.policy
        words = [
            *(["--match", w.match] if w.match is not None else []),
            *(word for pointer in s.pointers for word in ("--pointer", pointer)),
            *(["--discover"] if s.discover else []),
            *(["--kind", s.kind] if s.kind != "auto" else []),
            *(["--on-clampable", "refuse"] if p.on_clampable == "refuse" else []),
            *(["--clamp", "--max-move", repr(p.max_move)] if p.clamp else []),
            *(["--normalize"] if p.normalize else []),
            *(["--readdress"] if p.readdress else []),
            *(
                word
                for tolerance in fields(p.tolerances)
                if (value := getattr(p.tolerances, tolerance.name)) != tolerance.default
                for word in (f"--{tolerance.name}-tolerance", repr(value))
            ),
        ]
        return self._session.command("migrate-json", *self.source, *words, *more)

    def follow_up(self, verb: str, migration: str) -> str:
        return self._session.command("migrate-json", *self.source, verb, "--migration", migration)


async def _dry_run(session: Session, words: _Words, pace: Pace, plan_file: str | None) -> Report:
    async with (
        _source(session, words, read_only=True) as source,
        session.store(read_only=True) as store,
    ):
        run = Run(source, store, words.wishes, pace, _Follow(session))
        if plan_file is None:
            report = await look(run)
        else:
            with _Replacing(plan_file) as plan:
                head = Head(
                    PLAN_FORMAT, source.identity, source.name, store.namespace, words.wishes.as_json()
                )
                writer = PlanWriter(plan.file, head)
                report = await look(run, writer.add)
                if report.complete:
                    writer.seal()
                    plan.keep()
                else:
                    report.warnings.append(f"no plan was written to {plan_file}")
    if report.complete:
        report.next = (
            session.command("migrate-json", *words.source, "--apply", plan_file)
            if plan_file
            else words.with_wishes()
        )
    _warn_of_insides(report, words.wishes.selection)
    return _by_line(session, report)


async def _copy(session: Session, words: _Words, pace: Pace, apply: str | None, *, resume: bool) -> Report:
    async with (
        _source(session, words, read_only=True) as source,
        session.store() as store,
    ):
        if apply is None:
            report = await _resumable(
                copy(Run(source, store, words.wishes, pace, _Follow(session)), resume=resume)
            )
            _warn_of_insides(report, words.wishes.selection)
        else:
            with _opened(apply) as file:
                plan = Plan(file, apply)
                if words.has_wishes:
                    raise UsageError("what is asked for stands in the plan; --apply takes no other wishes")
                plan.refuse_other(source.identity, store.namespace)
                run = Run(source, store, Wishes.from_json(plan.head.asked), pace, _Follow(session))
                report = await _resumable(copy(run, resume=resume, plan=plan))
    assert report.migration is not None
    report.undo = words.follow_up("--revert", report.migration)
    if report.complete:
        report.next = words.follow_up("--finalize", report.migration) if source.replaceable else None
    elif apply is None:
        report.next = words.with_wishes("--resume")
    else:
        report.next = session.command("migrate-json", *words.source, "--apply", apply, "--resume")
    return _by_line(session, report)


def _warn_of_insides(report: MigrateReport, selection: Selection) -> None:
    """Matrices inside of values are left where they are unless somebody asks for them: say how."""
    if selection.discover or selection.pointers:
        return
    reasons = (f"not-a-matrix: {reason}" for reason in (AN_OBJECT, A_LIST))
    count = sum(report.reasons[reason].count for reason in reasons if reason in report.reasons)
    if count:
        report.warnings.append(
            f"not looked into: {count} objects or lists; --discover finds the matrices inside of them"
        )


async def _resumable(work: Any) -> MigrateReport:
    try:
        report: MigrateReport = await work
    except (StoreUnavailable, OutcomeUnknown) as exc:
        exc.hint = f"{exc.hint + '; ' if exc.hint else ''}then go on with --resume"
        raise
    return report


async def _follow_up(session: Session, words: _Words, verb: str, migration: str | None, pace: Pace) -> Report:
    if migration is not None and not words.source and verb != "--finalize":
        async with session.store() as store:
            journal = await find(store, "", migration)
            return await (
                forget_migration(store, journal)
                if verb == "--forget"
                else revert_migration(None, store, journal, pace)
            )
    async with (
        # Also for --forget, which changes nothing there: only so may files be named that are gone by now.
        _source(session, words, read_only=False) as source,
        session.store() as store,
    ):
        journal = await find(store, source.identity, migration)
        if verb == "--forget":
            return await forget_migration(store, journal)
        if verb == "--revert":
            report = await revert_migration(source, store, journal, pace)
        else:
            report = await finalize_migration(source, store, journal, pace)
            report.undo = words.follow_up("--revert", journal.id)
    if not report.complete:
        report.next = words.follow_up(verb, journal.id)
    elif verb == "--finalize":
        report.next = words.follow_up("--forget", journal.id)
    return report


def _by_line(session: Session, report: MigrateReport) -> MigrateReport:
    """In ndjson mode the rows come a line each, before the report."""
    if session.out.mode == "ndjson":
        for rows in (report.rejected, report.conflicts, report.moved):
            for row in rows:
                session.out.item(row)
        report.rejected, report.conflicts, report.moved = [], [], []
    return report


def _ask(session: Session, verb: str, *, may_ask: bool) -> None:
    what = {
        "--finalize": "takes the migrated matrices out of the source",
        "--forget": "drops the original bytes for good",
    }[verb]
    if not may_ask:
        raise UsageError(f"{verb} {what}", hint="pass --yes")
    if not typer.confirm(f"{verb} {what}. Go on?", err=True):
        raise UsageError("not confirmed; nothing was changed")


class _Replacing:
    """A new `file` that takes the place of the one at `path` if it is to be kept. Raises InvalidFile."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._keep = False

    def keep(self) -> None:
        self._keep = True

    def __enter__(self) -> Self:
        try:
            handle, self._temporary = tempfile.mkstemp(
                dir=os.path.dirname(self._path) or ".", prefix=".somactl-"
            )
        except OSError as exc:
            raise InvalidFile(f"{self._path}: cannot be written: {exc.strerror}") from None
        self.file: BinaryIO = os.fdopen(handle, "wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.file.close()
            if self._keep and exc is None:
                os.replace(self._temporary, self._path)
                return
        except OSError as error:
            os.unlink(self._temporary)
            raise InvalidFile(f"{self._path}: cannot be written: {error.strerror}") from None
        os.unlink(self._temporary)


@asynccontextmanager
async def _source(session: Session, words: _Words, *, read_only: bool) -> AsyncIterator[Source]:
    """What the words name. A signal ends the reading of standard input at once."""
    from somactl.runtime import open_source

    async with AsyncExitStack() as stack:
        with abortable() if words.source in ([], ["-"]) else nullcontext():
            opening = open_source(
                words.source,
                stdin=sys.stdin.buffer,
                read_only=read_only,
                retry_seconds=session.settings.retry_seconds,
            )
            source = await stack.enter_async_context(opening)
        yield source


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed below; an error of opening is told apart)
    except OSError as exc:
        raise InvalidFile(f"{path}: {(exc.strerror or 'cannot be read').lower()}") from None
    with file:
        yield file


class _Follow:
    """How far it is, how long it will take, and which value took longest to examine."""

    def __init__(self, session: Session) -> None:
        self._out = session.out
        self._began = self._last = time.monotonic()
        self._first: int | None = None
        self._bytes = 0
        self._slowest = ("", 0.0)
        self._every = PROGRESS_SECONDS if sys.stderr.isatty() else LOG_SECONDS

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        self._bytes += progress.json_bytes
        if progress.slowest[1] > self._slowest[1]:
            self._slowest = progress.slowest
        if self._first is None:
            self._first = progress.done
        if progress.what == "values" and progress.done == progress.total:
            if self._slowest[0]:
                key, seconds = self._slowest
                self._out.talk(f"slowest to examine: {printable(shown(key))}, {seconds * 1e3:.1f} ms")
        elif now - self._last >= self._every:
            self._last = now
            count = f"{progress.done} of {progress.total}" if progress.total else f"{progress.done}"
            read = f", {size(self._bytes)}" if self._bytes else ""
            text = f"{count} {progress.what}{read}{self._eta(progress, now)}"
            if sys.stderr.isatty():
                self._out.progress(text)
            else:
                self._out.talk(text)

    def _eta(self, progress: Progress, now: float) -> str:
        done = progress.done - (self._first or 0)
        if done <= 0 or progress.total is None:
            return ""
        left = (progress.total - progress.done) * (now - self._began) / done
        return f", {left:.0f} s left" if left < 120 else f", {left / 60:.0f} min left"

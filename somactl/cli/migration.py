"""What the commands of a migration share: options, the lines they suggest, and what is told meanwhile."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

import typer

from somactl.cli.command import Session
from somactl.cli.pacing import PaceOptions
from somactl.cli.suggest import with_same_input
from somactl.core.json_pointer import parse_pointer
from somactl.legacy.examine import shown
from somactl.legacy.journal import Original
from somactl.legacy.request import Kind, MigrationProgress, MigrationRequest, Selection
from somactl.operations.admission import Policy
from somactl.report import MigrateReport
from somactl.suggestion import Suggestion, run


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options that say which values are looked at, and what the matrices in them are taken for."""

    match: Annotated[str | None, typer.Option(metavar="PATTERN", help="Only keys that match.")] = None
    pointer: Annotated[
        list[str], typer.Option("--pointer", metavar="/PATH", help="Look at this node of each value.")
    ] = field(default_factory=list)
    discover: Annotated[bool, typer.Option("--discover", help="Look at every node of each value.")] = False
    kind: Annotated[Kind, typer.Option(help="What the matrices are taken for.")] = "auto"

    def request(self, policy: Policy) -> MigrationRequest:
        """Raises UsageError for what is no pointer."""
        for each in self.pointer:
            parse_pointer(each)  # here, and not only when the first value is looked at
        return MigrationRequest(self.match, Selection(tuple(self.pointer), self.discover, self.kind), policy)


@dataclass(frozen=True, slots=True)
class Lines:
    """The command lines that a report suggests, with the pace that was asked for.

    source  the words that name it; none for standard input
    """

    session: Session
    source: Sequence[str]
    request: MigrationRequest
    pace: Mapping[str, str] = field(default_factory=dict)

    def again(self, **more: Any) -> str:
        return self.session.command(
            "migrate-json", *self.source, **_options(self.request), **more, **self.pace
        )

    def apply(self, plan: str) -> str:
        return self.session.command("migrate-json", *self.source, apply=plan, **self.pace)

    def plan_again(self, plan: str) -> Suggestion:
        """A new plan in the place of one that does not fit any more."""
        return run("migrate-json", *self.source, **_options(self.request), dry_run=True, plan_file=plan)

    def suggest(self, report: MigrateReport, line: str) -> None:
        """Make `line` the next command; where the values came by a pipe, no line alone brings them back."""
        report.next = line if self.source else with_same_input(line)
        if report.next is None:
            report.warnings.append(f"the values came on standard input: give the same ones again to {line}")


def follow_up(session: Session, verb: str, migration: str, pace: PaceOptions) -> str:
    """The line that finalizes, reverts or forgets it."""
    options = {} if verb == "forget" else pace.given
    return session.command(f"migration {verb}", migration, **options)


def _options(request: MigrationRequest) -> dict[str, Any]:
    """The options that make this request; None where the default is what is asked for."""
    s, p = request.selection, request.policy
    tolerances = {
        f"{tolerance.name}_tolerance": repr(value)
        for tolerance in fields(p.tolerances)
        if (value := getattr(p.tolerances, tolerance.name)) != tolerance.default
    }
    return {
        "match": request.match,
        "pointer": list(s.pointers),
        "discover": s.discover,
        "kind": None if s.kind == "auto" else s.kind,
        "on_clampable": "refuse" if p.on_clampable == "refuse" else None,
        "clamp": p.clamp,
        "max_move": repr(p.max_move) if p.clamp else None,
        "normalize": p.normalize,
        "readdress": p.readdress,
        **tolerances,
    }


class MigrationWatcher:
    """Passes on how far a migration is, and tells which value took longest to examine.

    In ndjson mode also what is rejected, in conflict or moved, a line each.
    """

    def __init__(self, session: Session) -> None:
        self.has_begun = False
        self._out = session.out
        self._slowest = ("", 0.0)

    @property
    def lists(self) -> bool:
        """Whether the report lists rows, which did not come as lines."""
        return self._out.mode != "ndjson"

    def __call__(self, progress: MigrationProgress) -> None:
        for row in () if self.lists else progress.rows:
            if row.outcome in ("rejected", "conflict") or row.moves or row.dark:
                self._out.item(row)
        self._slowest = max(self._slowest, progress.slowest, key=lambda each: each[1])
        if progress.what == "values":
            self.has_begun = True
            if progress.done == progress.total:
                key, seconds = self._slowest
                if key:
                    self._out.talk(f"slowest to examine: {shown(key)}, {seconds * 1e3:.1f} ms")
                return
        self._out.progress(progress)

    def left(self, original: Original) -> None:
        """One that a revert could not put back: in ndjson mode a line with all of it."""
        if self.lists:
            return
        line = {"key": shown(bytes.fromhex(original.key).decode("utf-8", "surrogateescape"))}
        try:
            line |= {"original": original.data.decode()}
        except UnicodeDecodeError:
            line |= {"original_base64": base64.b64encode(original.data).decode()}
        self._out.item(line)

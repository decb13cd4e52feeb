"""The command line of a migration, to repeat it in what a report suggests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from somactl.cli.command import Session
from somactl.cli.suggest import with_same_input
from somactl.legacy.context import MigrationRequest
from somactl.operations.admission import Policy
from somactl.report import MigrateReport
from somactl.suggestion import Suggestion, run


@dataclass(frozen=True, slots=True)
class Words:
    """The source and options of a migration, as given on the command line.

    source  the words that name it; none for standard input
    pace    rate, pause_file and max_duration, where they were given
    """

    session: Session
    source: Sequence[str]
    wishes: MigrationRequest
    pace: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_wishes(self) -> bool:
        """Whether the command line asks for anything in particular."""
        plain = MigrationRequest(policy=Policy(tolerances=self.session.settings.tolerances))
        return bool(self.session.tolerances) or self.wishes.as_json() != plain.as_json()

    @property
    def lasting(self) -> list[str]:
        """The words for the source that the store may keep: they tell no secret, and mean the same from any
        folder."""
        from somactl.legacy.source.files import lasting_words

        if not self.source or any("://" in word for word in self.source):
            return []
        if self.source[0].startswith("env:"):
            return list(self.source)
        return lasting_words(self.source)

    def of(self, source: Sequence[str], wishes: MigrationRequest) -> Words:
        return replace(self, source=source, wishes=wishes)

    def again(self, **more: Any) -> str:
        return self._command(self.source, **_options(self.wishes), **more, **self.pace)

    def apply(self, plan: str, **more: Any) -> str:
        return self._command(self.source, apply=plan, **more, **self.pace)

    def plan_again(self, plan: str) -> Suggestion:
        """A new plan in the place of one that does not fit any more."""
        return run("migrate-json", *self.source, **_options(self.wishes), dry_run=True, plan_file=plan)

    def suggest(self, report: MigrateReport, line: str) -> None:
        """Make `line` the next command; where the values came by a pipe, no line alone brings them back."""
        report.next = line if self.source else with_same_input(line)
        if report.next is None:
            report.warnings.append(f"the values came on standard input: give the same ones again to {line}")

    def follow_up(self, verb: str, migration: str) -> str:
        """The journal knows the source where its words last."""
        source = [] if self.lasting else self.source
        pace = {} if verb == "forget" else self.pace
        return self._command(source, **{verb: True}, migration=migration, **pace)

    def _command(self, source: Sequence[str], **options: Any) -> str:
        return self.session.command("migrate-json", *source, **options)


def _options(wishes: MigrationRequest) -> dict[str, Any]:
    """The options that ask for these wishes; None where the default is what is wished for."""
    s, p = wishes.selection, wishes.policy
    tolerances = {
        f"{tolerance.name}_tolerance": repr(value)
        for tolerance in fields(p.tolerances)
        if (value := getattr(p.tolerances, tolerance.name)) != tolerance.default
    }
    return {
        "match": wishes.match,
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

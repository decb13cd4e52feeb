"""The command line of a migration, to repeat it in what a report suggests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from somactl.cli.command import Session
from somactl.operations.admission import Policy
from somactl.operations.migration.run import Wishes


@dataclass(frozen=True, slots=True)
class Words:
    """What was given.

    source  the words that name it; none for standard input
    pace    `--rate`, `--pause-file`, `--max-duration` with their values
    """

    session: Session
    source: Sequence[str]
    wishes: Wishes
    pace: Sequence[str] = ()

    @property
    def has_wishes(self) -> bool:
        """Whether the command line asks for anything in particular."""
        plain = Wishes(policy=Policy(tolerances=self.session.settings.tolerances))
        return bool(self.session.tolerances) or self.wishes.as_json() != plain.as_json()

    @property
    def lasting(self) -> list[str]:
        """The words for the source that the store may keep: they tell no secret, and mean the same from any
        folder."""
        from somactl.source.files import lasting_words

        if not self.source or any("://" in word for word in self.source):
            return []
        if self.source[0].startswith("env:"):
            return list(self.source)
        return lasting_words(self.source)

    def of(self, source: Sequence[str], wishes: Wishes) -> Words:
        return replace(self, source=source, wishes=wishes)

    def again(self, *more: str) -> str:
        return self._command(*self.source, *_flags(self.wishes), *more, *self.pace)

    def apply(self, plan: str, *more: str) -> str:
        return self._command(*self.source, "--apply", plan, *more, *self.pace)

    def follow_up(self, verb: str, migration: str) -> str:
        """The journal knows the source where its words last."""
        source = [] if self.lasting else self.source
        pace = [] if verb == "--forget" else self.pace
        return self._command(*source, verb, "--migration", migration, *pace)

    def _command(self, *words: str) -> str:
        return self.session.command("migrate-json", *words)


def _flags(wishes: Wishes) -> list[str]:
    s, p = wishes.selection, wishes.policy
    return [
        *(["--match", wishes.match] if wishes.match is not None else []),
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

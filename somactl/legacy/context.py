"""What a migration is asked for, and what one run of it works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

import msgspec

from somactl.errors import InputRejected
from somactl.legacy.batches import Examiner
from somactl.legacy.examine import Selection
from somactl.legacy.journal import identify
from somactl.legacy.source.contract import Source
from somactl.operations.admission import Policy
from somactl.operations.jobs.pace import Pace
from somactl.report import MigrateReport, MigrationRow
from somactl.store.contract import Store


@dataclass(frozen=True, slots=True)
class MigrationRequest:
    """What a migration is asked for; together with source and namespace it makes its id."""

    match: str | None = None
    selection: Selection = field(default_factory=Selection)
    policy: Policy = field(default_factory=Policy)

    def as_json(self) -> dict[str, Any]:
        named = {
            name.name: getattr(part, name.name)
            for part in (self.selection, self.policy)
            for name in fields(part)
        }
        # The kind that counts is the selection's: a policy has none here.
        return dict(msgspec.to_builtins({**named, "kind": self.selection.kind, "match": self.match}))

    @classmethod
    def from_json(cls, asked: Mapping[str, Any]) -> MigrationRequest:
        """The reverse of `as_json`; raises InputRejected for anything else."""
        try:
            selection = msgspec.convert({n: asked[n] for n in _names(Selection)}, Selection, strict=True)
            policy = msgspec.convert({n: asked[n] for n in _names(Policy) - {"kind"}}, Policy, strict=True)
            return cls(msgspec.convert(asked["match"], str | None), selection, policy)
        except (KeyError, msgspec.ValidationError) as exc:
            raise InputRejected(
                f"what was asked for is not told as this somactl tells it ({exc})",
                hint="make the plan again with this somactl",
            ) from None


def _names(kind: type[Selection] | type[Policy]) -> set[str]:
    return {each.name for each in fields(kind)}


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a migration, for the progress display.

    done, total  how many of how many `what`; the total is None where it was not counted
    json_bytes   read since the last time
    rows         settled since the last time, those of matrices alone
    slowest      of them the key that took longest to examine, with its seconds
    """

    done: int
    total: int | None
    json_bytes: int = 0
    rows: Sequence[MigrationRow] = ()
    slowest: tuple[str, float] = ("", 0.0)
    what: str = "values"


Watch: TypeAlias = Callable[[Progress], None]


def unwatched(progress: Progress) -> None:
    """Drop the progress: there is no display."""


@dataclass(frozen=True, slots=True)
class MigrationContext:
    """One run over a source. `each` is called after every batch.

    words    of the command line that name the source, where they can be written down (`source.words`)
    listing  whether the report lists rows; else `each` has had all of them
    """

    source: Source
    store: Store
    wishes: MigrationRequest
    pace: Pace
    each: Watch = unwatched
    words: Sequence[str] = ()
    listing: bool = True

    @property
    def migration(self) -> str:
        return identify(self.source.identity, self.store.namespace, self.wishes.as_json())

    @property
    def examiner(self) -> Examiner:
        return Examiner(self.store.namespace, self.wishes.selection, self.wishes.policy)

    def report(self, **given: Any) -> MigrateReport:
        return MigrateReport(
            store=self.store.name, namespace=self.store.namespace, source=self.source.name, **given
        )

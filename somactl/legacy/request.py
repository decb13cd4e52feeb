"""What a migration is asked for, and what one run of it works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import msgspec

from somactl.core.verdict import Tolerances
from somactl.legacy.source.contract import Source
from somactl.operations.admission import Policy
from somactl.operations.jobs.pace import Pace
from somactl.operations.jobs.progress import Progress, unwatched
from somactl.operations.jobs.wire import Wire, from_wire, identity, to_wire
from somactl.report import MigrateReport, MigrationRow
from somactl.store.contract import Store

Kind: TypeAlias = Literal["auto", "rho", "sketch", "matrix"]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which nodes of a value are looked at, and what they are taken for.

    pointers   RFC 6901; none: the whole value
    discover   every node at any depth
    kind       auto | rho | sketch | matrix
    """

    pointers: tuple[str, ...] = ()
    discover: bool = False
    kind: Kind = "auto"


class MigrationWire(Wire, frozen=True, kw_only=True):
    """A request as plans and journals hold it, and as an id is made of it: see `operations.jobs.wire`."""

    match: str | None = None
    pointers: list[str] = msgspec.field(default_factory=list)
    discover: bool = False
    kind: Kind = "auto"
    on_clampable: Literal["clamp", "refuse"] = "clamp"
    clamp: bool = False
    max_move: float = 0.0
    normalize: bool = False
    readdress: bool = False
    psd_tolerance: float = 1e-8
    trace_tolerance: float = 1e-8
    hermitian_tolerance: float = 1e-8


_PERMITTED = ("on_clampable", "clamp", "max_move", "normalize", "readdress")
_TOLERATED = ("psd", "trace", "hermitian")


@dataclass(frozen=True, slots=True)
class MigrationRequest:
    """What a migration is asked for; together with source and namespace it makes its id.

    Of the policy only what `Selection` does not say and a migration can be asked for goes on the wire.
    """

    match: str | None = None
    selection: Selection = field(default_factory=Selection)
    policy: Policy = field(default_factory=Policy)

    def to_wire(self) -> dict[str, Any]:
        """As JSON values, with the number of their format."""
        wire = MigrationWire(
            match=self.match,
            pointers=list(self.selection.pointers),
            discover=self.selection.discover,
            kind=self.selection.kind,
            **{name: getattr(self.policy, name) for name in _PERMITTED},
            **{f"{name}_tolerance": getattr(self.policy.tolerances, name) for name in _TOLERATED},
        )
        return to_wire(wire)

    @classmethod
    def from_wire(cls, written: Mapping[str, Any]) -> MigrationRequest:
        """The reverse of `to_wire`; SchemaMismatch for what a newer somactl wrote, else InputRejected."""
        wire = from_wire(written, MigrationWire)
        tolerances = Tolerances(**{name: getattr(wire, f"{name}_tolerance") for name in _TOLERATED})
        return cls(
            wire.match,
            Selection(tuple(wire.pointers), wire.discover, wire.kind),
            Policy(**{name: getattr(wire, name) for name in _PERMITTED}, tolerances=tolerances),
        )

    def id_for(self, source: str, namespace: str) -> str:
        """The id of the migration of `source` (its identity) into `namespace`: the same for the same."""
        return identity("migration", self.to_wire(), source, namespace)[:12]


@dataclass(frozen=True, slots=True)
class MigrationProgress(Progress):
    """How far a run is.

    rows     settled since the last time, those of matrices alone
    slowest  of them the key that took longest to examine, with its seconds
    """

    rows: Sequence[MigrationRow] = ()
    slowest: tuple[str, float] = ("", 0.0)


Watch: TypeAlias = Callable[[MigrationProgress], None]


@dataclass(frozen=True, slots=True)
class MigrationContext:
    """What one run over a source works with.

    watch    called after every batch
    words    the command line's words for the source, where they can be written down
    listing  whether the report lists rows; else `watch` has had all of them
    """

    source: Source
    store: Store
    request: MigrationRequest
    pace: Pace
    watch: Watch = unwatched
    words: Sequence[str] = ()
    listing: bool = True

    @property
    def migration(self) -> str:
        return self.request.id_for(self.source.identity, self.store.namespace)

    def report(self, **given: Any) -> MigrateReport:
        return MigrateReport(
            store=self.store.name, namespace=self.store.namespace, source=self.source.name, **given
        )

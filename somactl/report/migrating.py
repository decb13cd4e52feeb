"""What a migration of legacy values returns; its rows also stand in plans and journals."""

from __future__ import annotations

from typing import Literal

import msgspec

from somactl.core.verdict import Verdict
from somactl.report.base import Report
from somactl.report.writing import Move


class MigrationRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What became of one matrix in a legacy value, or of a value that holds none.

    key, pointer  where it stands, "" for the whole value; bytes of a key that are no UTF-8 are shown escaped
    source        digest (XXH3-128, hex) of the whole value as it was read; "" where it could not be read
    form          numpy, lists, string, envelope, unreadable; "" where there is no matrix
    reason        why it is no matrix, was rejected (the name of the error) or is a conflict
    why           the sentence to that reason; for a matrix, why it was taken for its kind
    target        the key it goes to; kind, dtype, shape and content are those of its envelope there
    json_bytes    of the node in the value (of the value, where there is no matrix); bytes of the envelope
    moves         what was done to it by --normalize or clamping
    verdict       of a rho that was refused, or was admitted in the dark
    dark          an invariant would refuse it, and dark mode admits it
    """

    key: str
    outcome: Literal["migrate", "identical", "conflict", "not-a-matrix", "rejected"]
    source: str = ""
    pointer: str = ""
    form: str = ""
    reason: str = ""
    why: str = ""
    target: str = ""
    kind: str = ""
    dtype: str = ""
    shape: list[int] = []
    content: str = ""
    json_bytes: int = 0
    bytes: int = 0
    moves: list[Move] = []
    verdict: Verdict | None = None
    dark: bool = False


class Tally(msgspec.Struct, kw_only=True):
    """count of matrices (or of values without one), and what they took as JSON and take as envelopes."""

    count: int = 0
    json_bytes: int = 0
    bytes: int = 0


class MigrateReport(Report, tag="migrate-json"):
    """What a migration found and did. It names no host and no time, so that two runs compare equal.

    migration     its id: what `migration finalize`, `revert` and `forget` take; None in a dry run
    phase         planned (a dry run), copied, finalized, reverted or forgotten; copying, finalizing or
                  reverting where it was stopped on the way
    source        what was read, without its host
    values        how many values were looked at; pages of the journal, when there is one
    outcomes, forms, reasons, kinds   tallies; reasons as `outcome: reason`
    pointers      where matrices stand, of whatever outcome, with their number (the first 1000)
    largest       the rows of the ten largest matrices
    rejected, conflicts, moved, admitted_dark   the first 10,000 rows of each, with how many more there are
                  as `..._omitted`; in ndjson mode every one comes as a line instead
    finalized     values that were removed or whose matrices were replaced by references; restored: values
                  that a revert put back; withdrawn: matrices that it deleted; forgotten: originals dropped
    left_alone    values that had changed since, each with the reason, and that were not touched
    """

    migration: str | None = None
    phase: str = "planned"
    source: str = ""
    dry_run: bool = False
    plan: str | None = None
    stopped: str | None = None
    values: int = 0
    outcomes: dict[str, Tally] = {}
    forms: dict[str, Tally] = {}
    reasons: dict[str, Tally] = {}
    kinds: dict[str, Tally] = {}
    pointers: dict[str, int] = {}
    pointers_omitted: int = 0
    largest: list[MigrationRow] = []
    rejected: list[MigrationRow] = []
    conflicts: list[MigrationRow] = []
    moved: list[MigrationRow] = []
    admitted_dark: list[MigrationRow] = []
    rejected_omitted: int = 0
    conflicts_omitted: int = 0
    moved_omitted: int = 0
    admitted_dark_total: int = 0
    admitted_dark_omitted: int = 0
    finalized: int = 0
    restored: int = 0
    withdrawn: int = 0
    forgotten: int = 0
    left_alone: dict[str, str] = {}


class MigrationSummary(msgspec.Struct, kw_only=True):
    """A migration that is recorded in the namespace.

    phase       copying (under way, or stopped), copied, finalizing, finalized, reverting, reverted or
                forgetting
    outcomes    of the last pass, with how many matrices (or values without one) ended so
    originals   values that finalizing took out, of which the bytes are kept and were not put back
    began_at, changed_at, age_seconds   by the store's clock; the age is that of the last change
    """

    migration: str
    phase: str
    source: str
    batches: int
    outcomes: dict[str, int]
    originals: int
    began_at: float
    changed_at: float
    age_seconds: float


class MigrationsReport(Report, tag="migration-ls"):
    """The migrations of a namespace, by their ids."""

    migrations: list[MigrationSummary] = []

"""What every report has, the table of exit codes, and what a failure prints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

SCHEMA_VERSION = 1

# The table of exit codes. Its order decides where several apply: the first one wins.
EXIT_CODES: dict[int, str] = {
    14: "outcome unknown: a write was sent and no reply came; `somactl status COMMIT_ID` tells",
    1: "a bug in somactl",
    130: "interrupted (SIGINT); from the first byte of a write to its reply it is 14 unless resolved at once",
    143: "terminated (SIGTERM); from the first byte of a write to its reply it is 14 unless resolved at once",
    10: "configuration",
    2: "wrong usage",
    3: "findings: an invariant is violated, a value is corrupt or cannot be migrated, a canary fails",
    13: "a store or service is unavailable; nothing written",
    11: "input rejected: corrupt, hostile or not a density matrix; nothing written",
    12: "version conflict; nothing written",
    17: "the result could not be written; the work stands as stderr tells",
    16: "another run holds the lock",
    15: "not found",
    4: "incomplete or degraded: something was not checked, durable but cache stale, canary inconclusive",
    5: "canary: not enough evidence yet",
    0: "done; nothing found; a canary passes",
}
PRECEDENCE = tuple(EXIT_CODES)


def decide(codes: Iterable[int]) -> int:
    """The one exit code for all that happened; unknown codes count as a bug (1)."""
    seen = {code if code in PRECEDENCE else 1 for code in codes} or {0}
    return min(seen, key=PRECEDENCE.index)


class Degraded(msgspec.Struct, kw_only=True):
    """A part that failed while the command went on without it, and what that means for the answer."""

    service: str
    breaker: Literal["closed", "open", "half-open"]
    detail: str


class Report(msgspec.Struct, kw_only=True, tag_field="command"):
    """The part every report has.

    address is that of the store, without secrets. started_at and ended_at are times by the store's clock,
    incarnation and namespace_version say where the namespace was at the end; None where the store was not
    asked, as by a read that a cache has answered. A migration's dry run names neither place nor time, so that
    two of them compare equal. dark: dark mode was on, in which invariants are measured and refuse nothing.
    code is what the process exits with, codes all that applied; complete is false where something asked for
    was not done or not checked; degraded_services says what was missing where degraded is true; undo is the
    command that takes the change back; next is the command to run now.
    """

    schema_version: int = SCHEMA_VERSION
    store: str = ""
    address: str = ""
    namespace: str = ""
    incarnation: str | None = None
    namespace_version: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    code: int = 0
    codes: list[int] = []
    complete: bool = True
    dark: bool = False
    degraded: bool = False
    degraded_services: list[Degraded] = []
    warnings: list[str] = []
    undo: str | None = None
    next: str | None = None

    def finish(self, *codes: int) -> Report:
        """Set `code` and `codes` from everything that happened."""
        self.codes = sorted({*codes} or {0})
        self.code = decide(self.codes)
        return self

    def degrade(self, services: Iterable[Degraded]) -> None:
        """Note what failed on the way; a command that did all it was asked for then ends with 4."""
        self.degraded_services = [*self.degraded_services, *services]
        if self.degraded_services:
            self.degraded = True
            self.finish(*(set(self.codes or [self.code]) - {0}), 4)


class ErrorReport(msgspec.Struct, kw_only=True):
    """What a failed command prints on stderr in the JSON modes: one object, the last line.

    hint says to a person what to do; next is the command to run, as a line for a shell, and others what
    else helps. runbook is the page that tells more, below the folder of the package, and explain the
    command that prints it. dark: dark mode was on, as in a report.
    """

    schema_version: int = SCHEMA_VERSION
    error: str
    message: str
    code: int
    retryable: bool = False
    dark: bool = False
    command: str = ""
    store: str = ""
    namespace: str = ""
    hint: str | None = None
    next: str | None = None
    others: list[str] = []
    explain: str | None = None
    runbook: str | None = None
    facts: dict[str, Any] = {}

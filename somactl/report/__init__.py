"""What each command returns: one typed object. A table, JSON and metrics are views of it.

`docs/` and `schemas/report.<command>.json` are generated from these types. A report never holds a clock
reading or a host name of its own, so that two runs over the same data compare equal; times in it are the
store's.
"""

from __future__ import annotations

from somactl.report.auditing import (
    CacheFinding,
    CacheWarmReport,
    Checked,
    VerifyReport,
    without_witness_vector,
)
from somactl.report.base import (
    EXIT_CODES,
    PRECEDENCE,
    SCHEMA_VERSION,
    Degraded,
    ErrorReport,
    Report,
    decide,
)
from somactl.report.looking import (
    CommitView,
    DoctorReport,
    ExplainReport,
    FindingView,
    GetReport,
    InitReport,
    KeyView,
    LogReport,
    LsReport,
    NamespacesReport,
    NamespaceView,
    OrderView,
    RetentionView,
    RevisionView,
    ShowReport,
    StatusReport,
)
from somactl.report.migrating import (
    MigrateReport,
    MigrationRow,
    Tally,
)
from somactl.report.pruning import (
    PruneBatch,
    PruneItem,
    PruneReport,
)
from somactl.report.writing import (
    CommitItem,
    CommitReport,
    CompactReport,
    DemoReport,
    LeftAlone,
    Move,
    PartialCommit,
    RestoreReport,
    RmReport,
    StoreView,
)

__all__ = [
    "EXIT_CODES",
    "PRECEDENCE",
    "REPORTS",
    "SCHEMA_VERSION",
    "CacheFinding",
    "CacheWarmReport",
    "Checked",
    "CommitItem",
    "CommitReport",
    "CommitView",
    "CompactReport",
    "Degraded",
    "DemoReport",
    "DoctorReport",
    "ErrorReport",
    "ExplainReport",
    "FindingView",
    "GetReport",
    "InitReport",
    "KeyView",
    "LeftAlone",
    "LogReport",
    "LsReport",
    "MigrateReport",
    "MigrationRow",
    "Move",
    "NamespaceView",
    "NamespacesReport",
    "OrderView",
    "PartialCommit",
    "PruneBatch",
    "PruneItem",
    "PruneReport",
    "Report",
    "RestoreReport",
    "RetentionView",
    "RevisionView",
    "RmReport",
    "ShowReport",
    "StatusReport",
    "StoreView",
    "Tally",
    "VerifyReport",
    "decide",
    "without_witness_vector",
]

REPORTS: tuple[type[Report], ...] = (
    InitReport,
    DoctorReport,
    NamespacesReport,
    CommitReport,
    RestoreReport,
    RmReport,
    LsReport,
    GetReport,
    ShowReport,
    LogReport,
    StatusReport,
    CompactReport,
    PruneReport,
    CacheWarmReport,
    VerifyReport,
    MigrateReport,
    ExplainReport,
    DemoReport,
)

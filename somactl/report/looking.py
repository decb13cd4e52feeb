"""What commands return that only look, and what they show of namespaces, keys and commits."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from somactl.core.verdict import Verdict
from somactl.report.base import SCHEMA_VERSION, Report
from somactl.report.pruning import PruneBatch, PruneReport


class RetentionView(msgspec.Struct, kw_only=True):
    versions: int
    seconds: float
    record_seconds: float


class NamespaceView(msgspec.Struct, kw_only=True):
    namespace: str
    incarnation: str
    version: int
    created_at: float
    retention: RetentionView
    keys: int | None = None
    tombstones: int | None = None
    stored_bytes: int | None = None


class InitReport(Report, tag="init"):
    head: NamespaceView


class SettingView(msgspec.Struct, kw_only=True):
    """One setting. value is without secrets, and None where it could not be understood; place names where it
    comes from: a flag, a variable, a key in a file; overridden the places that set it in vain; error says
    what is wrong with it."""

    name: str
    value: str | None
    unit: str
    origin: Literal["flag", "environment", "file", "default"]
    place: str
    overridden: list[str] = []
    error: str | None = None


class ConfigProblem(msgspec.Struct, kw_only=True):
    message: str
    hint: str | None = None


class ConfigReport(Report, tag="config"):
    settings: list[SettingView] = []
    problems: list[ConfigProblem] = []


class FindingView(msgspec.Struct, kw_only=True):
    """One aspect of one service. advice says what to do; empty where there is nothing to do. next are the
    command lines that do it, or tell more."""

    service: str
    check: str
    status: Literal["ok", "warning", "problem", "unknown"]
    detail: str
    advice: str = ""
    next: list[str] = []


class DoctorReport(Report, tag="doctor"):
    findings: list[FindingView] = []


class NamespacesReport(Report, tag="namespaces"):
    namespaces: list[NamespaceView]


class KeyView(msgspec.Struct, kw_only=True):
    key: str
    version: int
    kind: str
    dtype: str
    shape: list[int]
    layout: str
    bytes: int
    content: str
    commit_id: str
    committed_at: float
    deleted: bool = False
    recoverable_until: float | None = None


class LsReport(Report, tag="ls"):
    """In ndjson mode the keys come a line each and `keys` here is empty."""

    deleted: bool = False
    total: int = 0
    stored_bytes: int = 0
    keys: list[KeyView] = []


class CompletionReport(Report, tag="completion"):
    """A shell's completion script."""

    shell: str
    script: str


class ExplainReport(Report, tag="explain"):
    """A page that somactl brings along: its name, as a file of the package, and its text (Markdown)."""

    topic: str
    page: str
    text: str


class GetReport(Report, tag="get"):
    """value is the envelope as base64 text, as pipes carry it; None where it went to a file.

    age: where a cache served it, seconds since the store behind it was asked.
    admitted_dark: an invariant would refuse it, and it was committed in dark mode.
    """

    key: str
    version: int
    incarnation: str
    content: str
    bytes: int
    served_by: str
    format: str
    age: float | None = None
    file: str | None = None
    value: str | None = None
    admitted_dark: bool = False


class ShowReport(Report, tag="show"):
    """stored_verdict is what was found at commit, and proven unless it is admitted_dark;
    verdict is what a check found now (with --check).

    metadata are the labels of the commit that wrote the value, as long as its record is kept. Where a cache
    served it, age is seconds since the store behind it was asked, and newest the version there by now: 0
    where the key is deleted there, None where that could not be asked.
    """

    key: KeyView
    incarnation: str
    envelope_digest: str
    compression: str
    timestamp: float
    served_by: str = ""
    age: float | None = None
    newest: int | None = None
    metadata: dict[str, str] = {}
    stored_verdict: dict[str, Any] | None = None
    admitted_dark: bool = False
    verdict: Verdict | None = None


class RevisionView(msgspec.Struct, kw_only=True):
    key: str
    version: int
    commit_id: str
    committed_at: float
    action: Literal["put", "delete"]
    content: str | None = None
    kind: str | None = None
    bytes: int = 0
    psd: str | None = None
    admitted_dark: bool = False
    compacted: bool = False


class CommitView(msgspec.Struct, kw_only=True):
    """A commit. caller is who had it made, and door what they came through, where that was a service's.

    verdicts: content digest -> status. dark: it was made in dark mode; admitted_dark are the keys whose rho
    an invariant would refuse.
    """

    commit_id: str
    state: Literal["committed", "aborted", "unseen"]
    version: int | None = None
    incarnation: str | None = None
    recorded_at: float | None = None
    made_by: str | None = None
    caller: str | None = None
    door: str | None = None
    metadata: dict[str, str] = {}
    keys: dict[str, str | None] = {}
    verdicts: dict[str, str] = {}
    dark: bool = False
    admitted_dark: list[str] = []


class LogReport(Report, tag="log"):
    """Without a key: the namespace's commits. With one: the key's revisions. Newest first."""

    key: str | None = None
    commits: list[CommitView] = []
    revisions: list[RevisionView] = []


class EventView(msgspec.Struct, kw_only=True):
    """One commit as its event tells it. psd, psd_ok, trace_error and lambda_min_lower are the worst of its
    density matrices, None where it wrote none. dark: it was made in dark mode; admitted_dark: an invariant
    would refuse one of its matrices."""

    version: int
    incarnation: str
    commit_id: str
    recorded_at: float
    keys: dict[str, str | None]
    psd: str | None = None
    psd_ok: bool | None = None
    trace_error: float | None = None
    lambda_min_lower: float | None = None
    dark: bool = False
    admitted_dark: bool = False


class EventsLsReport(Report, tag="events-ls"):
    """Events in the order of versions. gone: the first and the last version behind the given one whose events
    retention has removed. The namespace was at version `head`; after is where the next page goes on."""

    head: int
    after: int
    events: list[EventView] = []
    gone: list[int] | None = None


class EventsReport(Report, tag="events"):
    """How far events were published, whether asked or changed.

    publishing  whether events wait to be published, at most keep of them beyond their time
    published   the version up to which they were
    backlog     how many wait, the oldest since oldest_at
    dropped     how many were removed unpublished since publishing was turned on
    """

    publishing: bool
    published: int
    keep: int | None = None
    backlog: int = 0
    oldest_at: float | None = None
    dropped: int = 0


class OrderView(msgspec.Struct, kw_only=True):
    """A prune order that was accepted, and how far it is: see the report of `prune`.

    pending is the id of the commit that was last about to be sent, if its outcome was not noted yet, and
    pending_state what became of it by now; committed, it is counted, though it is none of `batches`. caller
    had it accepted, through the door of a service.
    """

    order_id: str
    state: Literal["running", "done"]
    items: int
    counts: dict[str, int]
    deleted_keys: int
    deleted_bytes: int
    batches: list[PruneBatch]
    batches_omitted: int
    pending: str | None = None
    pending_state: Literal["committed", "aborted", "unseen"] | None = None
    stopped: str | None = None
    caller: str | None = None
    door: str | None = None


class OrderFailure(msgspec.Struct):
    """Why the last run of an order did not come to its end: an exit code, and what it stands for here."""

    code: int
    message: str
    error: str | None = None


OrderState = Literal["running", "unfinished", "done", "failed"]
"""running: this service carries it out; unfinished: it was begun, and another one does, or it waits to be
sent again; done: it has its report; failed: it was not accepted."""


class OrderStatus(msgspec.Struct, kw_only=True):
    """How far a prune order is that was sent to a service.

    order    what is recorded of it; None: nothing (yet)
    report   that of the order, once it is done
    failure  why the last run of this service ended before the order did
    """

    order_id: str
    namespace: str
    state: OrderState
    order: OrderView | None = None
    report: PruneReport | None = None
    failure: OrderFailure | None = None
    schema_version: int = SCHEMA_VERSION


class StatusReport(Report, tag="status"):
    """`unseen` with final=false may still arrive; after `--resolve` the answer is final.

    order: the id is (also) that of a prune order; one of several batches has no commit under its own id.
    """

    commit: CommitView
    final: bool
    order: OrderView | None = None

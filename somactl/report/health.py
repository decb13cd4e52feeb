"""What `somactl serve` says about the namespaces it watches: one value, which every face of it shows.

    {"ok": true, "rho": {"psd_ok": true, "trace_error": 1.2e-9, "sample_version": 42, ...}, ...}

An age is in seconds, by a clock that no change of the date moves and that goes on while the machine is
suspended, from the moment before the value was read. A time ends in `_at` and is in seconds since 1970, by
this process's clock.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from somactl.report.base import SCHEMA_VERSION

MAX_FINDINGS = 100
"""An answer stays small however sick a namespace is."""

Cause = Literal[
    "starting",
    "violated",
    "undecided",
    "unreadable",
    "nothing-watched",
    "too-many",
    "namespace-gone",
    "authority-away",
    "cache-away",
    "cache-differs",
    "stale",
    "dead",
    "prover",
]
"""starting: nothing is proven yet; violated: an invariant is broken, or bytes are damaged; nothing-watched:
no rho matches the patterns; too-many: more match than can be watched; cache-differs: a copy is not what the
authority has; stale, dead: the last proof is older than `--stale-after`, `--dead-after`; prover: it does not
run, or not as it should."""


class Reason(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Why health is not as it should be, now.

    fails    whether it alone makes health not ok; one that does not is a degradation
    service  the store that it is about, by its kind: `postgres`, `cache`
    since_at when it began
    runbook  the page that says what to do
    """

    cause: Cause
    message: str
    fails: bool = False
    namespace: str | None = None
    service: str | None = None
    key: str | None = None
    since_at: float | None = None
    runbook: str | None = None


class PastReason(msgspec.Struct, kw_only=True):
    """A reason that held at some time since the process started, whether it still does or not."""

    cause: Cause
    message: str
    namespace: str | None = None
    service: str | None = None
    count: int = 1
    first_at: float
    last_at: float


class WatchedKey(msgspec.Struct, kw_only=True):
    """What was last found of one watched key, in one store.

    outcome       as in an audit: valid, clampable, violated, undecided, corrupt, unreadable, stale,
                  contradicting
    store         the kind of the store it was read from: the authority's, or `cache`
    last_good_at  when it was last read and proven there; None: never since the start
    """

    key: str
    outcome: str
    store: str
    version: int | None = None
    trace_error: float | None = None
    lambda_min_bound: float | None = None
    age_seconds: float | None = None
    last_good_at: float | None = None
    dark: bool = False
    reasons: list[str] = []


class RhoHealth(msgspec.Struct, kw_only=True):
    """The mathematics of one namespace, as it was last proven; or the worst of several.

    psd_ok            every watched rho is a density matrix: True, False; None: not known
    trace_error       the largest |tr rho - 1|; lambda_min_bound: the lowest bound of an eigenvalue
    sample_version    the version of the namespace whose state was proven
    age_seconds       since that state was read; None: nothing was proven
    oldest_seconds    since the watched key that was read longest ago was read: more than `age_seconds` where
                      there are too many to prove in one round
    watched, proven   keys that match, and those of them that were proven as they are
    last_good_at      when psd_ok was last True; None: never since the start
    findings          the watched keys that are not right, at most MAX_FINDINGS; findings_total says how many
    """

    psd_ok: bool | None = None
    trace_error: float | None = None
    sample_version: int | None = None
    lambda_min_bound: float | None = None
    namespace: str = ""
    incarnation: str | None = None
    age_seconds: float | None = None
    oldest_seconds: float | None = None
    last_good_at: float | None = None
    watched: int = 0
    proven: int = 0
    findings: list[WatchedKey] = []
    findings_total: int = 0


class NamespaceHealth(msgspec.Struct, kw_only=True):
    """One watched namespace: as the whole answer, but for it alone."""

    ok: bool
    degraded: bool
    rho: RhoHealth
    reasons: list[Reason] = []


class ServiceHealth(msgspec.Struct, kw_only=True):
    """A store that was asked: whether it answered the last time, and for how long it has answered so."""

    service: str
    up: bool
    since_at: float
    detail: str | None = None


class ProverHealth(msgspec.Struct, kw_only=True):
    """The process that proves. `given-up`: it failed too often, and is tried at long intervals."""

    state: Literal["starting", "running", "restarting", "given-up"]
    restarts: int = 0
    last_failure: str | None = None
    round_seconds: float | None = None


class HealthReport(msgspec.Struct, kw_only=True):
    """Whether the mathematics holds, of all that is watched together.

    ok        nothing that `fails` holds now; in dark mode an invariant never makes it false
    dark      dark mode is on: invariants are measured and refuse nothing
    rho       the worst of the namespaces
    degraded  something is missing, or old, that does not make the answer wrong yet
    reasons   all that holds now, what fails first; since_start what has held at any time
    """

    ok: bool
    rho: RhoHealth
    dark: bool = False
    degraded: bool = False
    reasons: list[Reason] = []
    since_start: list[PastReason] = []
    services: list[ServiceHealth] = []
    namespaces: dict[str, NamespaceHealth] = {}
    prover: ProverHealth
    started_at: float
    schema_version: int = SCHEMA_VERSION
    version: str = ""

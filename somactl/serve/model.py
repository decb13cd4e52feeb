"""What is watched, and what the prover tells the process that answers: one JSON object a line.

All `..._at` of messages are by the clock of `serve.clock`, which is one for all processes of a machine; a
`read_at` is from before the read began, so that an age is never too small.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from somactl.config import Settings
from somactl.core.verdict import Tolerances
from somactl.report.health import Cause
from somactl.report.pushing import BacklogView, CountsView, LedgerView

PROTOCOL = 1
MAX_WATCHED = 20_000
"""Keys of a namespace that are watched at most: both processes keep what they know of each."""
MAX_LINE = 1 << 20
"""Bytes of one message."""
CACHE = "cache"
"""What a store before the authority is called, whatever it is."""

Outcome = Literal[
    "valid", "clampable", "violated", "undecided", "corrupt", "unreadable", "stale", "contradicting", "absent"
]
GOOD = ("valid", "clampable")


class WatchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is watched, and how old a proof may be.

    patterns     a key is watched that matches any of them, as `--match` does, and holds a rho
    interval     seconds from the beginning of a round to that of the next
    stale_after  seconds after which a proof is stale: degraded; dead_after: not ok any more
    dark         dark mode: what breaks an invariant is told, and makes nothing fail
    """

    namespaces: tuple[str, ...] = ("default",)
    patterns: tuple[str, ...] = ("*",)
    interval: float = 5.0
    stale_after: float = 30.0
    dead_after: float = 300.0
    tolerances: Tolerances = msgspec.field(default_factory=Tolerances)
    dark: bool = False


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What the prover is told, in one line on its standard input; it holds the stores' passwords.

    pipe    the descriptor it reports to
    parent  the process it ends with
    nice    its priority: 19 is the lowest
    beat    seconds between signs of life
    """

    settings: Settings
    watch: WatchOptions
    pipe: int
    parent: int
    nice: int = 15
    beat: float = 1.0
    protocol: int = PROTOCOL


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The prover runs, and has not looked at anything yet."""

    protocol: int = PROTOCOL


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """A sign of life. `progress` grows with all that it gets done."""

    progress: int


class Service(msgspec.Struct, frozen=True):
    """A store that was asked: `service` is its kind, or `cache`."""

    service: str
    up: bool
    detail: str | None = None


class Services(msgspec.Struct, frozen=True, tag="services"):
    """Whether the stores of a namespace answered just now: the authority stands first."""

    namespace: str
    services: list[Service]


class Gone(msgspec.Struct, frozen=True, tag="gone"):
    """There is no such namespace: what was known of it tells nothing any more."""

    namespace: str
    at: float


class Listed(msgspec.Struct, frozen=True, kw_only=True, tag="listed"):
    """A part of a listing of the keys that are watched.

    at       before the listing began
    begin    the first part of a whole listing: a key that does not follow up to its end is watched no more
    new      keys that are watched from now on; in a whole listing all
    changed  keys that were written since they were read last
    gone     keys that are watched no more
    end      the last part of a listing
    """

    namespace: str
    incarnation: str
    at: float
    begin: bool = False
    new: list[str] = []
    changed: list[str] = []
    gone: list[str] = []
    end: bool = False


class Proof(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What was found of one key: `absent` says that the store holds none (any more)."""

    key: str
    outcome: Outcome
    version: int | None = None
    trace_error: float | None = None
    lambda_min_bound: float | None = None
    reasons: tuple[str, ...] = ()
    dark: bool = False


class Found(msgspec.Struct, frozen=True, kw_only=True, tag="found"):
    """What was found of some keys in one store, which was read at `version` of the namespace."""

    namespace: str
    store: str
    incarnation: str
    read_at: float
    version: int | None = None
    proofs: list[Proof] = []


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """What else is not as it should be, until the next round says otherwise."""

    cause: Cause
    message: str
    service: str | None = None
    fails: bool = False


class Round(msgspec.Struct, frozen=True, kw_only=True, tag="round"):
    """A round has ended, well or badly.

    reads         seconds that ordinary reads took
    copies_since  all that the cache holds was looked at since then: other copies are not there any more
    """

    namespace: str
    seconds: float
    copies_since: float | None = None
    troubles: list[Trouble] = []
    reads: list[float] = []


class Extras(msgspec.Struct, frozen=True, kw_only=True, tag="extras"):
    """What people ask besides: each is None where it could not be looked at.

    at             by the wall clock; so is last_audit_at, by the store's
    last_audit_at  when an audit last wrote to the ledger
    """

    namespace: str
    at: float
    version: int | None = None
    counts: CountsView | None = None
    ledger: LedgerView | None = None
    last_audit_at: float | None = None
    events: BacklogView | None = None


Message: TypeAlias = Hello | Beat | Services | Gone | Listed | Found | Round | Extras


def encode(message: Message) -> bytes:
    """The line that tells it."""
    return msgspec.json.encode(message) + b"\n"


decode = msgspec.json.Decoder(Message).decode
"""The message of a line. Raises msgspec.DecodeError, msgspec.ValidationError."""

"""What a canary check is told, and how a recording of it is read: NDJSON, one sample a line.

::

    {"t": 12.5, "arm": "candidate", "kind": "latency", "seconds": 0.0123}
    {"t": 13.0, "arm": "baseline", "kind": "verdict", "psd": "valid", "trace_error": 1e-12, "key": "state:1"}
    {"t": 14.0, "arm": "candidate", "kind": "error", "what": "timeout"}
    {"t": 15.0, "arm": "candidate", "kind": "degraded", "on": true}
    {"t": 16.0, "arm": "candidate", "kind": "commit", "outcome": "ok", "seconds": 0.02}
    {"t": 17.0, "arm": "baseline", "kind": "buckets", "edges": [0.01, 0.06], "counts": [812, 31, 2]}
    {"t": 18.0, "arm": "baseline", "kind": "counts", "of": "errors", "bad": 3, "total": 848}
    {"t": 19.0, "arm": "baseline", "kind": "trouble", "what": "no-series", "detail": "..."}

t is a time in seconds from any origin, the same for both arms. The first five are single requests. buckets
and counts are what a server counted since the last one: edges ascend, counts has one more (beyond the last
edge), and none is cumulative. trouble is what a source could not find out. All but the last three may come
from any recording.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

import msgspec

ArmName: TypeAlias = Literal["baseline", "candidate"]
Trouble: TypeAlias = Literal[
    "unreachable",  # no answer, or an answer of 5xx
    "refused",  # the question is wrong: 4xx
    "unreadable",  # an answer that is none: text, a page of HTML
    "no-series",  # an answer that is empty
    "counter-reset",
    "rejected",  # a sample that is none; `read_samples` says why
    "clocks",  # the arms' times have nothing in common
]
ARMS: Final[tuple[ArmName, ...]] = get_args(ArmName)
MAX_LINE: Final = 1 << 20
MAX_EDGES: Final = 1000
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


class Sample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """The part every sample has. t: seconds from any origin."""

    t: float
    arm: ArmName


class Latency(Sample, frozen=True, kw_only=True, tag="latency", forbid_unknown_fields=True):
    """How long one request took that was answered."""

    seconds: float


class Proof(Sample, frozen=True, kw_only=True, tag="verdict", forbid_unknown_fields=True):
    """What a check of one matrix found. trace_error is None where it was not measured."""

    psd: Literal["valid", "clampable", "violated", "undecided"]
    trace_error: float | None = None
    key: str | None = None


class Failure(Sample, frozen=True, kw_only=True, tag="error", forbid_unknown_fields=True):
    """A request that was not answered as asked."""

    what: str


class Degradation(Sample, frozen=True, kw_only=True, tag="degraded", forbid_unknown_fields=True):
    """Whether the arm says that it is degraded; it stands until the next one."""

    on: bool


class Commit(Sample, frozen=True, kw_only=True, tag="commit", forbid_unknown_fields=True):
    outcome: Literal["ok", "conflict"]
    seconds: float | None = None


class Buckets(Sample, frozen=True, kw_only=True, tag="buckets", forbid_unknown_fields=True):
    """Latencies that were counted by bucket; counts[i] are above edges[i - 1] and up to edges[i]."""

    edges: list[float]
    counts: list[_Count]


class Counts(Sample, frozen=True, kw_only=True, tag="counts", forbid_unknown_fields=True):
    """`bad` of `total` requests failed, or of `total` commits conflicted."""

    of: Literal["errors", "conflicts"]
    bad: _Count
    total: _Count


class Doubt(Sample, frozen=True, kw_only=True, tag="trouble", forbid_unknown_fields=True):
    """What a source could not find out, so that a check which needs it cannot pass."""

    what: Trouble
    detail: str = ""


AnySample: TypeAlias = Latency | Proof | Failure | Degradation | Commit | Buckets | Counts | Doubt


class Rejected(msgspec.Struct, frozen=True):
    """A line that is no sample: where it stands, counting from 1, and what is wrong with it."""

    line: int
    message: str


def read_samples(lines: Iterable[bytes]) -> Iterator[AnySample | Rejected]:
    """The samples of a recording, in its order; what is none is rejected, and the rest is read on.

    Empty lines are passed over. A recording need not be in the order of its times: see `in_order`.
    """
    decoder = msgspec.json.Decoder(AnySample)
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _sample(decoder, line, number)


def _sample(decoder: msgspec.json.Decoder[Any], line: bytes, number: int) -> AnySample | Rejected:
    if len(line) > MAX_LINE:
        return Rejected(number, f"longer than {MAX_LINE >> 20} MiB")
    try:
        sample: AnySample = decoder.decode(line)
    except msgspec.ValidationError as exc:
        return Rejected(number, f"this is no sample: {exc}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Rejected(number, _not_json(line))
    defect = defect_of(sample)
    return Rejected(number, defect) if defect else sample


def _not_json(line: bytes) -> str:
    tokens = [token for token in (b"NaN", b"Infinity") if token in line]
    return f"{tokens[0].decode()} is no number" if tokens else "this is not JSON"


def defect_of(sample: AnySample) -> str | None:
    """What no sample may say although its types allow it; None where nothing is wrong."""
    if not math.isfinite(sample.t):
        return f"the time {sample.t} is not finite"
    if isinstance(sample, Latency | Commit):
        return _of_seconds(sample.seconds)
    if isinstance(sample, Proof) and sample.trace_error is not None:
        error = sample.trace_error
        return None if math.isfinite(error) and error >= 0 else f"{error} is no trace error"
    if isinstance(sample, Counts) and sample.bad > sample.total:
        return f"{sample.bad} of {sample.total} is more than all"
    return _of_buckets(sample) if isinstance(sample, Buckets) else None


def _of_seconds(seconds: float | None) -> str | None:
    if seconds is None or 0.0 <= seconds < math.inf:
        return None
    return f"a latency of {seconds} s is {'negative' if seconds < 0 else 'not finite'}"


def _of_buckets(sample: Buckets) -> str | None:
    edges = sample.edges
    if not 0 < len(edges) <= MAX_EDGES or len(sample.counts) != len(edges) + 1:
        return f"{len(edges)} edges and {len(sample.counts)} counts: there is one count more than edges"
    sound = all(0.0 <= edge < math.inf for edge in edges)
    if not sound or any(right <= left for left, right in itertools.pairwise(edges)):
        return "the edges are not finite, ascending and from 0 on"
    return None


def in_order(samples: Iterable[AnySample]) -> list[AnySample]:
    """The samples by their times, those of one time as they came: as if they had arrived live."""
    return sorted(samples, key=lambda sample: sample.t)

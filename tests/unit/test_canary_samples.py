"""A recording of samples: what a line may say, and by what name it is rejected."""

from __future__ import annotations

import pytest

from somactl.core.canary_samples import (
    Buckets,
    Commit,
    Counts,
    Degradation,
    Doubt,
    Failure,
    Latency,
    Proof,
    Rejected,
    Sample,
    in_order,
    read_samples,
)

GOOD = {
    b'{"t": 12.5, "arm": "candidate", "kind": "latency", "seconds": 0.0123}': Latency(
        t=12.5, arm="candidate", seconds=0.0123
    ),
    b'{"t": 13.0, "arm": "baseline", "kind": "verdict", "psd": "valid", "key": "a"}': Proof(
        t=13.0, arm="baseline", psd="valid", key="a"
    ),
    b'{"t": 14.0, "arm": "candidate", "kind": "error", "what": "timeout"}': Failure(
        t=14.0, arm="candidate", what="timeout"
    ),
    b'{"t": 15.0, "arm": "candidate", "kind": "degraded", "on": true}': Degradation(
        t=15.0, arm="candidate", on=True
    ),
    b'{"t": 16.0, "arm": "candidate", "kind": "commit", "outcome": "ok", "seconds": 0.02}': Commit(
        t=16.0, arm="candidate", outcome="ok", seconds=0.02
    ),
    b'{"t": 17.0, "arm": "baseline", "kind": "buckets", "edges": [0.1, 0.6], "counts": [8, 3, 2]}': Buckets(
        t=17.0, arm="baseline", edges=[0.1, 0.6], counts=[8, 3, 2]
    ),
    b'{"t": 18.0, "arm": "baseline", "kind": "counts", "of": "errors", "bad": 3, "total": 848}': Counts(
        t=18.0, arm="baseline", of="errors", bad=3, total=848
    ),
    b'{"t": 19.0, "arm": "baseline", "kind": "trouble", "what": "no-series", "detail": "x"}': Doubt(
        t=19.0, arm="baseline", what="no-series", detail="x"
    ),
    b'{"t": 1.0, "arm": "baseline", "kind": "verdict", "psd": "clampable", "trace_error": 1e-12}': Proof(
        t=1.0, arm="baseline", psd="clampable", trace_error=1e-12
    ),
}
BAD = {
    b'{"t": 1, "arm": "candidate", "kind": "latency", "seconds": NaN}': "NaN is no number",
    b'{"t": 1, "arm": "candidate", "kind": "latency", "seconds": -Infinity}': "Infinity is no number",
    b'{"t": 1, "arm": "candidate", "kind": "latency", "seconds": -0.5}': "negative",
    b'{"t": 1, "arm": "candidate", "kind": "latency", "seconds": 1e999}': "out of range",
    b'{"t": 1, "arm": "candidate", "kind": "latency", "seconds": "12ms"}': "Expected `float`",
    b'{"t": 1, "arm": "candidate", "kind": "latency"}': "missing required field `seconds`",
    b'{"t": 1, "arm": "candidate", "kind": "latency", "seconds": 1, "ms": 1}': "unknown field `ms`",
    b'{"t": 1, "arm": "control", "kind": "latency", "seconds": 1}': "Invalid enum value 'control'",
    b'{"t": 1, "arm": "candidate", "kind": "latencies", "seconds": 1}': "Invalid value 'latencies'",
    b'{"t": 1, "arm": "candidate", "kind": "verdict", "psd": "ok"}': "Invalid enum value 'ok'",
    b'{"t": 1, "arm": "candidate", "kind": "verdict", "psd": "valid", "trace_error": -1.0}': "no trace error",
    b'{"t": 1, "arm": "candidate", "kind": "commit", "outcome": "ok", "seconds": -1.0}': "negative",
    b'{"t": 1, "arm": "candidate", "kind": "counts", "of": "errors", "bad": 3, "total": 2}': "more than all",
    b'{"t": 1, "arm": "candidate", "kind": "counts", "of": "errors", "bad": -3, "total": 2}': ">= 0",
    b'{"t": 1, "arm": "candidate", "kind": "buckets", "edges": [0.1], "counts": [1]}': "one count more",
    b'{"t": 1, "arm": "candidate", "kind": "buckets", "edges": [0.1, 0.1], "counts": [1, 1, 1]}': "ascending",
    b'{"t": 1, "arm": "candidate", "kind": "buckets", "edges": [], "counts": [1]}': "one count more",
    b'{"t": "noon", "arm": "candidate", "kind": "degraded", "on": true}': "Expected `float`",
    b"<html>502 Bad Gateway</html>": "not JSON",
    b"[1, 2]": "Expected `object`",
    b'{"t": 1, "arm": "candidate", "kind": "error", "what": "\xff"}': "not JSON",
    b"[" * 100_000: "",
    b'{"t": 1, "arm": "candidate", "kind": "error", "what": "' + b"x" * (1 << 20) + b'"}': "longer than",
}


@pytest.mark.parametrize("line", GOOD, ids=lambda line: line.decode()[30:60])
def test_a_line_is_the_sample_that_it_says(line: bytes) -> None:
    assert list(read_samples([line])) == [GOOD[line]]


@pytest.mark.parametrize("line", BAD, ids=lambda line: line[:80].decode("latin-1"))
def test_a_line_that_is_none_is_rejected_by_name_and_the_rest_is_read(line: bytes) -> None:
    good = next(iter(GOOD))
    found = list(read_samples([good, b"\n", line, good]))
    assert [type(each) for each in found] == [Latency, Rejected, Latency]
    rejected = found[1]
    assert isinstance(rejected, Rejected)
    assert rejected.line == 3
    assert BAD[line] in rejected.message
    assert len(rejected.message) < 200


def test_samples_are_put_in_the_order_of_their_times_and_those_of_one_time_as_they_came() -> None:
    times = [3.0, 1.0, 2.0, 1.0]
    samples: list[Sample] = [Latency(t=t, arm="baseline", seconds=float(i)) for i, t in enumerate(times)]
    assert [each.seconds for each in in_order(samples)] == [1.0, 3.0, 2.0, 0.0]

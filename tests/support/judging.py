"""A recording judged by the pure judge alone, without a run around it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from somactl.core.canary import Judge
from somactl.core.canary_samples import AnySample, Rejected
from somactl.core.canary_spec import Spec
from somactl.core.canary_verdict import CanaryVerdict


def judge_all(spec: Spec, samples: Iterable[AnySample | Rejected]) -> CanaryVerdict:
    """The verdict of a recording in the order of its times, looked at every interval as if it came live."""
    judge, next_look = Judge(spec), -math.inf
    for sample in samples:
        if isinstance(sample, Rejected):
            judge.reject(sample)
            continue
        if sample.t >= next_look:
            if judge.fails():
                break
            next_look = sample.t + spec.interval
        judge.add(sample)
    return judge.finish(recorded=True)

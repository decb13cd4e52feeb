"""Samples as text that Prometheus reads, and the histograms of a process that lives long.

The only module that imports prometheus_client, which takes as long as a short command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from somactl.telemetry.catalogue import BUCKETS, GROUPING, METRICS, PREFIX
from somactl.telemetry.observe import Observation, Sample

_Found = dict[tuple[tuple[tuple[str, str], ...], str], list[Sample]]
"""(group, name of the family) -> its samples there."""


def exposition(samples: Iterable[Sample]) -> bytes:
    """The samples in the text format; a family that has none does not stand in it."""
    registry = CollectorRegistry()
    registry.register(_Samples(samples))
    return generate_latest(registry)


def merged(
    text: str, observations: Iterable[Observation], *, past: bool = False
) -> tuple[bytes, list[Observation]]:
    """`text`, as this function once wrote it, with what the observations replace: whole families of groups,
    as a Pushgateway does; and those that were left out. The labels of the group stand at each sample.

    past: they are of runs that may have ended long ago; where a later run of the group stands there, one is
    left out. Raises ValueError for other text.
    """
    found: _Found = {}
    older: list[Observation] = []
    for family in text_string_to_metric_families(text):
        for each in family.samples:
            if each.name in METRICS:
                group = {name: value for name, value in each.labels.items() if name in GROUPING}
                sample = Sample(each.name, each.value, each.labels)
                found.setdefault((tuple(sorted(group.items())), each.name), []).append(sample)
    for observation in observations:
        if past and _is_older(observation, found):
            older.append(observation)
            continue
        key = tuple(sorted(observation.group.items()))
        found |= {(key, name): [] for name in {sample.name for sample in observation.samples}}
        for sample in observation.samples:
            labelled = Sample(sample.name, sample.value, {**observation.group, **sample.labels})
            found[key, sample.name].append(labelled)
    return exposition(sample for samples in found.values() for sample in samples), older


def _is_older(observation: Observation, found: _Found) -> bool:
    """Whether a later run of its group stands there."""
    last = found.get((tuple(sorted(observation.group.items())), PREFIX + "job_last_run_timestamp_seconds"))
    return bool(last and observation.ended_at is not None and observation.ended_at < last[0].value)


class _Samples(Collector):
    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = list(samples)

    def collect(self) -> Iterator[Family]:
        families: dict[str, Family] = {}
        for sample in self._samples:
            metric = METRICS[sample.name]
            family = families.setdefault(metric.name, Family(metric.name, metric.help, metric.type))
            family.add_sample(metric.name, dict(sample.labels), sample.value)
        yield from families.values()


class LatencyHistograms:
    """The observers of `Metered` stores where a process lives long; `registry` is what it serves."""

    def __init__(self, registry: CollectorRegistry) -> None:
        read, commit = (PREFIX + f"rho_{each}_latency_seconds" for each in ("read", "commit"))
        self._histograms = {
            operation: Histogram(name, METRICS[name].help, ["namespace"], buckets=BUCKETS, registry=registry)
            for operation, name in (("read", read), ("commit", commit))
        }

    def of(self, namespace: str) -> Callable[[str, float], None]:
        """What notes how long one call of a namespace took; pages of many keys are no reads of one."""
        children = {operation: each.labels(namespace) for operation, each in self._histograms.items()}

        def note(operation: str, seconds: float) -> None:
            if operation in children:
                children[operation].observe(seconds)

        return note

"""Recorded samples, judged as if they arrived live: looked at every interval of their own times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from somactl.core.canary_samples import ARMS, AnySample, ArmName, Doubt, Rejected, in_order, read_samples
from somactl.core.canary_spec import Spec
from somactl.core.canary_verdict import CanaryVerdict
from somactl.operations.canary.watch import Watch
from somactl.report.canary_evidence import CanarySamplesFile, samples_file

ReadFile = Callable[[str], bytes]


@dataclass(slots=True)
class Recording:
    """The files that were read, the samples of both arms in the order of their times, and the lines that are
    none, each once."""

    files: list[CanarySamplesFile] = field(default_factory=list)
    samples: list[AnySample] = field(default_factory=list)
    rejected: list[tuple[ArmName, Rejected]] = field(default_factory=list)

    @property
    def span(self) -> float:
        """The seconds from the first sample to the last."""
        return self.samples[-1].t - self.samples[0].t if self.samples else 0.0


def read_recording(files: Mapping[ArmName, str], read_file: ReadFile) -> Recording:
    """What the files hold of the arms that they are for. A file that both arms name is read once, and what
    is no sample in it counts for the candidate. Raises what read_file does."""
    found = Recording()
    for name in dict.fromkeys(files.values()):
        arms = [arm for arm in ARMS if files.get(arm) == name]
        data = read_file(name)
        found.files.append(samples_file(name, data, arms))
        for sample in read_samples(data.splitlines()):
            if isinstance(sample, Rejected):
                found.rejected.append((arms[-1], sample))
            elif sample.arm in arms:
                found.samples.append(sample)
    found.samples = in_order(found.samples)
    return found


def judge_recording(spec: Spec, recording: Recording) -> tuple[CanaryVerdict, Watch]:
    """The verdict, and what was seen on the way to it."""
    watch = Watch(spec, span=recording.span)
    for arm, rejected in recording.rejected:
        watch.reject(rejected, arm)
    next_look = float("-inf")
    for sample in recording.samples:
        if sample.t >= next_look:
            if watch.look(sample.t):
                break
            next_look = sample.t + spec.interval
        watch.take([sample])
    return watch.finish(recorded=True), watch


class Recorded:
    """One arm's recording beside an arm that is asked live: its samples come as they came then, the first of
    them when the window begins."""

    is_timed = False

    def __init__(self, arm: ArmName, recording: Recording) -> None:
        self.arm = arm
        self.start = 0.0
        self.cursor: dict[str, float] = {}
        self._recording = recording

    async def begin(self) -> None:
        """There is nothing to open."""

    async def look(self, now: float) -> list[AnySample]:
        first = self._recording.samples[0].t if self._recording.samples else 0.0
        shift = self.start - first
        told = int(self.cursor.get("told", 0.0))
        found: list[AnySample] = []
        if "rejected" not in self.cursor:
            self.cursor["rejected"] = float(len(self._recording.rejected))
            found += [
                Doubt(t=now, arm=self.arm, what="rejected", detail=f"line {each.line}: {each.message}")
                for _, each in self._recording.rejected
            ]
        for sample in self._recording.samples[told:]:
            if sample.t + shift > now:
                break
            told += 1
            found.append(msgspec.structs.replace(sample, t=sample.t + shift))
        self.cursor["told"] = float(told)
        return found

    async def close(self) -> None:
        """Nothing stays open."""

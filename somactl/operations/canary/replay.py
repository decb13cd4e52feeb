"""Evidence of a canary check: what was judged, and judging it again.

samples = taken(watch, recording)           # for report.canary_evidence.write_bundle
report = replay(bundle, "canary.json", read_file)
report.verdict                              # the stored one; EvidenceRejected where it does not follow
"""

from __future__ import annotations

import math
import os.path
from collections.abc import Iterator, Sequence

from somactl.core.canary_samples import ArmName
from somactl.core.canary_verdict import PRECISION, CanaryVerdict, Evidence
from somactl.errors import InvalidFile
from somactl.operations.canary.recording import ReadFile, Recording, judge_recording, read_recording
from somactl.operations.canary.watch import Watch
from somactl.report import CanaryReport
from somactl.report.canary_evidence import MOST_SAMPLES, CanaryBundle, CanarySamples
from somactl.report.canary_replay import check
from somactl.report.sealed import digest_of, refused


def taken(watch: Watch, recording: Recording | None = None) -> CanarySamples:
    """What a run judged; its samples themselves where these are few, and each line of a recording was one."""
    files = recording.files if recording else []
    held = len(watch.samples) <= MOST_SAMPLES and not (recording and recording.rejected)
    return CanarySamples(
        count=len(watch.samples),
        recorded=recording is not None,
        start=watch.begun,
        ended=watch.ended,
        asked=watch.asked if recording is None else None,
        files=list(files),
        values=watch.samples if held else None,
    )


def replay(bundle: CanaryBundle, name: str, read_file: ReadFile, instead: str | None = None) -> CanaryReport:
    """The report of a bundle whose verdict follows from what it holds, and from its samples where these are
    at hand; a warning says where they are not. instead: the file of samples to read, whatever it names.

    Raises EvidenceRejected: see report.canary_evidence.CanaryDefect.
    """
    check(bundle, name)
    report = CanaryReport(
        verdict=bundle.verdict,
        spec=bundle.spec,
        looks=bundle.looks,
        distribution=bundle.distribution,
        recorded=bundle.samples.recorded,
        replayed=True,
        evidence=name,
        evidence_digest=bundle.digest,
    )
    try:
        recording = _recording(bundle.samples, name, read_file, instead)
    except InvalidFile as exc:
        report.warnings.append(f"log E was computed again; its samples were not judged again: {exc.message}")
    else:
        again = _judged_again(bundle, recording)
        if again is None:
            report.warnings.append("log E was computed again; when the judge was asked does not stand there")
        else:
            _compare(bundle.verdict, again, name)
    report.finish(bundle.verdict.code)
    return report


def _recording(samples: CanarySamples, name: str, read_file: ReadFile, instead: str | None) -> Recording:
    """The samples. Raises InvalidFile where a file is not there, EvidenceRejected where it is another."""
    if samples.values is not None:
        return Recording(samples=samples.values)
    digests = {each.file: each.digest for each in samples.files}

    def read(file: str) -> bytes:
        data, place = _read(file, name, read_file, instead)
        if digest_of(data) != digests[file]:
            what = f"its samples were in {file}, and {place} has another digest: it is not what was judged"
            raise refused(name, "other-samples", what)
        return data

    files: dict[ArmName, str] = {arm: each.file for each in samples.files for arm in each.arms}
    return read_recording(files, read)


def _read(file: str, name: str, read_file: ReadFile, instead: str | None) -> tuple[bytes, str]:
    """What stands in the file, or in one of its name beside the evidence, and where that is."""
    if instead is not None:
        return read_file(instead), instead
    if file == "-":
        raise InvalidFile("they came by standard input: name their file with --samples", file=file)
    beside = os.path.join(os.path.dirname(name), os.path.basename(file))
    if beside != file:
        try:
            return read_file(file), file
        except InvalidFile:
            pass
    return read_file(beside), beside


def _judged_again(bundle: CanaryBundle, recording: Recording) -> CanaryVerdict | None:
    """In the same steps; None where these are not known."""
    samples = bundle.samples
    if samples.recorded:
        return judge_recording(bundle.spec, recording)[0]
    if samples.asked is None:
        return None
    watch = Watch(bundle.spec, samples.start)
    for upto, now in samples.asked:
        watch.take(recording.samples[len(watch.samples) : upto])
        watch.look(now)
    watch.take(recording.samples[len(watch.samples) :])
    return watch.finish(samples.ended) if bundle.verdict.ended else watch.verdict(samples.ended)


def _compare(stored: CanaryVerdict, again: CanaryVerdict, name: str) -> None:
    """Raises EvidenceRejected where the samples give another verdict; the last digits may differ."""
    for about, said, found in _differences(stored, again):
        what = f"its samples, judged again, give another verdict: {about} is {found}, and it says {said}"
        raise refused(name, "other-verdict", what)


def _differences(stored: CanaryVerdict, again: CanaryVerdict) -> Iterator[tuple[str, object, object]]:
    pairs: list[tuple[str, object, object]] = [("the verdict", _said(stored), _said(again))]
    for each, other in zip(stored.criteria, again.criteria, strict=True):
        pairs.append((each.name, (each.outcome, each.why), (other.outcome, other.why)))
        pairs.append((f"{each.name}, failing", *_evidence(each.failing, other.failing)))
        pairs.append((f"{each.name}, passing", *_evidence(each.passing, other.passing)))
    return (pair for pair in pairs if pair[1] != pair[2])


def _said(verdict: CanaryVerdict) -> object:
    return verdict.outcome, verdict.why, verdict.criterion, verdict.samples, verdict.outside


def _evidence(stored: Evidence | None, again: Evidence | None) -> tuple[object, object]:
    """What must be the same: the counts, and log E but for its last digits."""
    if stored is None or again is None:
        return stored, again
    near = math.isclose(stored.log_e, again.log_e, rel_tol=0.0, abs_tol=PRECISION)
    log_e = stored.log_e if near else again.log_e
    return _counts(stored, stored.log_e), _counts(again, log_e)


def _counts(evidence: Evidence, log_e: float) -> Sequence[object]:
    return evidence.q, evidence.candidate, evidence.baseline, log_e

"""What `canary-check` writes, an evidence bundle and a page of HTML, and the bundle that it replays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar

import msgspec
import typer

from somactl.cli import inputs
from somactl.cli.command import Session
from somactl.cli.output_file import OutputFile, descriptor_of
from somactl.core.canary_samples import ARMS, AnySample
from somactl.errors import UsageError
from somactl.report import CanaryReport
from somactl.report.canary_evidence import CanarySamples, digest_in, samples_file, write_bundle
from somactl.report.canary_page import document


@dataclass(frozen=True, slots=True)
class Files:
    """The options about what is written, and what is replayed."""

    PANEL: ClassVar[str] = "What is written"

    evidence: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write all that the verdict rests on, to be replayed anywhere."),
    ] = None
    report: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a page of HTML with plots: one file, no script.")
    ] = None
    replay: Annotated[
        str | None,
        typer.Option(metavar="FILE|-", help="Check what --evidence wrote, and end as that did."),
    ] = None


class Written:
    """The files of one run, each put in its place whole or not at all."""

    def __init__(
        self, evidence: OutputFile | None, page: OutputFile | None, apart: OutputFile | None
    ) -> None:
        """apart: for samples that the evidence has no room for; None where it has for all."""
        self._evidence, self._page, self._apart = evidence, page, apart

    def keep_evidence(self, report: CanaryReport, taken: CanarySamples, values: Sequence[AnySample]) -> None:
        """Write the bundle. values: what was judged, for the file beside it where `taken` has them nowhere.

        Raises ResultNotWritten.
        """
        if self._evidence is None:
            return
        if taken.values is None and not taken.files:
            taken = self._keep_apart(taken, values)
        data = write_bundle(report, taken)
        self._evidence.write(data)
        self._evidence.keep()
        report.evidence, report.evidence_digest = self._evidence.name, digest_in(data)

    def _keep_apart(self, taken: CanarySamples, values: Sequence[AnySample]) -> CanarySamples:
        if self._apart is None:
            return msgspec.structs.replace(taken, values=list(values))
        data = b"".join(msgspec.json.encode(sample) + b"\n" for sample in values)
        self._apart.write(data)
        self._apart.keep()
        name = os.path.basename(self._apart.name)
        return msgspec.structs.replace(taken, files=[samples_file(name, data, ARMS)])

    def keep_page(self, report: CanaryReport) -> None:
        """Write the page of HTML. Raises ResultNotWritten."""
        if self._page is not None and report.verdict is not None:
            self._page.write(document(report))
            self._page.keep()
            report.html = self._page.name


@contextmanager
def opened(session: Session, files: Files, *read: str | None) -> Iterator[Written]:
    """What is to be written, refused before any work where it cannot be. read: never written over.

    Raises TargetRefused, UsageError.
    """
    named = [os.path.realpath(name) for name in (files.evidence, files.report) if name is not None]
    if len({*named}) < len(named) and _is_file(named[0]):
        raise UsageError("--evidence and --report name one file", hint="name two")
    spare = [name for name in read if name is not None and name != "-"]
    with ExitStack() as stack:

        def target(name: str | None) -> OutputFile | None:
            return None if name is None else stack.enter_context(session.output_file(name, spare=spare))

        evidence, page = target(files.evidence), target(files.report)
        beside = files.evidence is not None and _is_file(files.evidence)
        yield Written(evidence, page, target(f"{files.evidence}.samples.ndjson" if beside else None))


def _is_file(path: str) -> bool:
    """Whether it is a file, or will be: no device, FIFO or descriptor, beside which nothing can stand."""
    return descriptor_of(path) is None and (os.path.isfile(path) or not os.path.exists(path))


def replayed(session: Session, files: Files, samples: str | None, others: Sequence[str]) -> CanaryReport:
    """The report of the bundle, whose verdict follows from what it holds.

    samples: a file of samples to read instead of the one that it names. others: flags that were given too.
    Raises EvidenceRejected, UsageError.
    """
    from somactl.operations.canary.replay import replay
    from somactl.report.canary_evidence import read_bundle

    assert files.replay is not None
    if files.evidence is not None or others:
        flag = "--evidence" if files.evidence is not None else others[0]
        raise UsageError(f"--replay judges nothing anew, and takes no {flag}", hint="drop it")
    name = inputs.name_of(files.replay)
    with opened(session, files, files.replay, samples) as written:
        bundle = read_bundle(inputs.read_evidence(files.replay), name)
        report = replay(bundle, name, inputs.read_samples, samples)
        written.keep_page(report)
    return report

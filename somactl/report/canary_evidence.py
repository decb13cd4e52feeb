"""Evidence of a canary check: all that its verdict rests on, in one canonical JSON file with its digests.

    data = write_bundle(report, samples)
    bundle = read_bundle(data, "canary.json")       # or it raises EvidenceRejected
    canary_replay.check(bundle, "canary.json")      # computes all evidence again, or it raises the same

Every byte counts: a file that says the same in other bytes is refused. A digest is no signature: it finds
what was damaged or altered by accident, and where. docs/CANARY.md describes the form.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final, Literal, TypeAlias

import msgspec

from somactl import __version__
from somactl.address import public
from somactl.core.canary_samples import AnySample, ArmName
from somactl.core.canary_spec import Arm, Spec
from somactl.core.canary_verdict import JUDGE_VERSION, CanaryVerdict
from somactl.core.canonical import canonical, read
from somactl.errors import EvidenceRejected
from somactl.report.canary import CanaryDistribution, CanaryLook, CanaryReport
from somactl.report.encoding import to_json
from somactl.report.sealed import digest_of, refused, tree_of, unknown_member, with_digest

FORM: Final = "somactl-canary-1"
MOST_SAMPLES: Final = 50_000
"""So many samples stand in the bundle itself; more in a file that it names by its digest."""
MOST_ASKED: Final = 100_000
"""Of a run that looked more often, its samples are not judged again; log E is computed again all the same."""
PARTS: Final = ("distribution", "looks", "samples", "spec", "verdict", "versions")
"""What has a digest of its own, so that a change is named."""

CanaryDefect: TypeAlias = Literal[
    "not-json",
    "repeated-member",
    "unknown-version",
    "digest-mismatch",
    "not-canonical",
    "other-judge",
    "unknown-member",
    "invalid-bundle",
    "inconsistent",  # its parts contradict each other
    "other-evidence",  # log E, computed again, is another
    "other-samples",  # the samples' file is not the one that was judged
    "other-verdict",  # the samples, judged again, give another verdict
]
"""What can be wrong with a bundle, in the order in which it is looked for: the fact `defect` of its error."""


class CanaryVersions(msgspec.Struct, frozen=True, kw_only=True):
    """What computed the verdict. machine: the system, the processor and the C library."""

    somactl: str = __version__
    judge: str = JUDGE_VERSION
    python: str = ""
    numpy: str = ""
    machine: str = ""


class CanarySamplesFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of samples, and the digest of its bytes; arms: whose samples were taken from it."""

    arms: list[ArmName]
    file: str
    size: int
    digest: str


class CanarySamples(msgspec.Struct, frozen=True, kw_only=True):
    """What was judged, and when the judge was asked.

    values: the samples in the order in which they were judged; None where they stand in `files`, which a
    recording always names. start: when the window began, by their times. asked: [samples so far, time] of
    each look at samples that came live; None for a recording, which is looked at every interval of its own
    times, and where there were too many. ended: the time of the last look.
    """

    count: int
    recorded: bool = False
    start: float | None = None
    ended: float | None = None
    asked: list[tuple[int, float]] | None = None
    files: list[CanarySamplesFile] = []
    values: list[AnySample] | None = None


class CanaryBundle(msgspec.Struct, kw_only=True):
    """The evidence of a canary check; digests are of the parts, digest of the whole."""

    digest: str
    digests: dict[str, str]
    distribution: CanaryDistribution | None
    form: str
    looks: list[CanaryLook]
    samples: CanarySamples
    spec: Spec
    verdict: CanaryVerdict
    versions: CanaryVersions


def samples_file(file: str, data: bytes, arms: Sequence[ArmName]) -> CanarySamplesFile:
    return CanarySamplesFile(arms=list(arms), file=file, size=len(data), digest=digest_of(data))


def write_bundle(report: CanaryReport, samples: CanarySamples) -> bytes:
    """The bundle of a report with a spec and a verdict. What is written on one machine twice is the same."""
    assert report.spec is not None
    assert report.verdict is not None
    many = samples.asked is not None and len(samples.asked) > MOST_ASKED
    values = {
        "distribution": report.distribution,
        "looks": report.looks,
        "samples": msgspec.structs.replace(samples, asked=None) if many else samples,
        "spec": without_secrets(report.spec),
        "verdict": report.verdict,
        "versions": _versions(),
    }
    return _sealed({name: _canonical(values[name]) for name in PARTS})


def digest_in(data: bytes) -> str:
    """The digest that stands in a bundle as it was written."""
    return msgspec.json.decode(data, type=_Digest).digest


class _Digest(msgspec.Struct):
    digest: str


def read_bundle(data: bytes, name: str) -> CanaryBundle:
    """The bundle in `data`, which errors call `name`. Raises EvidenceRejected: see CanaryDefect.

    That its numbers follow from each other is not looked at here: see `canary_replay`.
    """
    tree = tree_of(data, name)
    if tree.get("form") != FORM:
        raise _unknown_form(tree, name)
    _check_digests(tree, data, name)
    judge = tree["verdict"].get("judge") if isinstance(tree["verdict"], dict) else None
    if judge != JUDGE_VERSION:
        raise _other_judge(tree, judge, name)
    try:
        bundle = msgspec.convert(tree, CanaryBundle)
    except msgspec.ValidationError as exc:
        raise refused(name, "invalid-bundle", f"it is no evidence of a canary check: {exc}") from None
    unknown = unknown_member(tree, read(to_json(bundle).decode()))
    if unknown is not None:
        raise refused(name, "unknown-member", f"the member {unknown} is not known here", hint=_with(tree))
    return bundle


def without_secrets(spec: Spec) -> Spec:
    """The spec with addresses as a message may show them."""
    return msgspec.structs.replace(spec, arms={name: _public(arm) for name, arm in spec.arms.items()})


def _public(arm: Arm) -> Arm:
    store, cache = (
        each and (each if each.startswith("env:") else public(each)) for each in (arm.store, arm.cache)
    )
    health, url = (each and _plain(each) for each in (arm.health, arm.url))
    return msgspec.structs.replace(arm, store=store, cache=cache, health=health, url=url)


_HTTP = re.compile(r"(https?://)(?:[^/?#]*@)?([^/?#]*)([^?#]*)", re.IGNORECASE)
"""Scheme, place and path; what may hold a secret stands between them or behind."""


def _plain(url: str) -> str:
    """An address of HTTP without user, password and query."""
    if url.startswith("env:"):
        return url
    found = _HTTP.match(url)
    return "".join(found.groups()) if found else "an address that cannot be read"


def _versions() -> CanaryVersions:
    library = " ".join(part for part in platform.libc_ver() if part)
    return CanaryVersions(
        python=platform.python_version(),
        numpy=version("numpy"),
        machine=" ".join(part for part in (platform.system(), platform.machine(), library) if part),
    )


def _canonical(value: Any) -> bytes:
    return canonical(read(to_json(value).decode()))


def _sealed(parts: dict[str, bytes]) -> bytes:
    """The whole, of parts that are canonical; the names of the members stand in their canonical order."""
    digests = {name: digest_of(part) for name, part in parts.items()}
    members = {"digests": canonical(digests), "form": canonical(FORM), **parts}
    body = b",".join(canonical(name) + b":" + members[name] for name in sorted(members))
    return with_digest(b"{" + body + b"}")


def _unknown_form(tree: dict[str, Any], name: str) -> EvidenceRejected:
    form = tree.get("form")
    if isinstance(form, str) and form.startswith("somactl-canary-"):
        what = f"the form of this evidence is {form}; this somactl reads {FORM}"
        return refused(name, "unknown-version", what, hint=_with(tree))
    hint = "`canary-check --evidence FILE` writes it"
    return refused(name, "unknown-version", "it is no evidence of a canary check", hint=hint)


def _check_digests(tree: dict[str, Any], data: bytes, name: str) -> None:
    """Raises EvidenceRejected unless `data` is what was written, byte for byte."""
    missing = [part for part in PARTS if part not in tree]
    if missing:
        raise refused(name, "invalid-bundle", f"it is no evidence of a canary check: {missing[0]} is missing")
    parts = {part: canonical(tree[part]) for part in PARTS}
    given = tree.get("digests")
    digests = given if isinstance(given, dict) else {}
    changed = [part for part in PARTS if digests.get(part) != digest_of(parts[part])]
    hint = "fetch it again from where the check wrote it"
    if changed:
        what = f"the digest of its {' and '.join(changed)} is another: that was changed after it was written"
        raise refused(name, "digest-mismatch", what, hint=hint, parts=changed)
    written = _sealed(parts)
    if canonical(tree) != written:
        what = "its digest is another, and all parts have theirs: the digest or a name was changed"
        raise refused(name, "digest-mismatch", what, hint=hint, parts=[])
    if data != written:
        what = "it says what was written in other bytes: blanks, the order or a number's digits were changed"
        raise refused(name, "not-canonical", what, hint=hint)


def _other_judge(tree: dict[str, Any], judge: Any, name: str) -> EvidenceRejected:
    what = f"it was judged by {judge}, and the judge of this somactl is {JUDGE_VERSION}, which cannot tell"
    return refused(name, "other-judge", what, hint=_with(tree), judge=judge)


def _with(tree: dict[str, Any]) -> str:
    versions = tree.get("versions")
    writer = versions.get("somactl") if isinstance(versions, dict) else None
    return (
        f"replay it with somactl {writer}, which wrote it"
        if isinstance(writer, str)
        else "replay it with the somactl that wrote it"
    )

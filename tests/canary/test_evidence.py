"""The evidence of a canary check: replayed it gives the stored verdict; whatever was changed is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from somactl.cli.canary_files import Written
from somactl.cli.output_file import OutputFile
from somactl.core.canary_samples import AnySample
from somactl.core.canary_spec import Arm
from somactl.core.canary_verdict import Outcome
from somactl.core.canonical import canonical
from somactl.errors import EvidenceRejected, InvalidFile
from somactl.operations.canary import replay as module
from somactl.operations.canary.recording import judge_recording, read_recording
from somactl.operations.canary.replay import replay, taken
from somactl.operations.canary.watch import Watch
from somactl.report import CanaryReport, canary_evidence, canary_replay
from somactl.report.canary_evidence import (
    MOST_SAMPLES,
    PARTS,
    CanaryDefect,
    read_bundle,
    without_secrets,
    write_bundle,
)
from support.canaries import CASES, judged, recording, spec
from tests.cli.conftest import Shell

NAME = "canary.json"
OUTCOMES: dict[str, Outcome] = {
    "pass": "PASS",
    "slower": "FAIL",
    "violated": "FAIL",
    "errors": "FAIL",
    "few": "INCONCLUSIVE",
    "gap": "INSUFFICIENT",
    "trouble": "INSUFFICIENT",
    "one arm": "INSUFFICIENT",
    "nothing": "INSUFFICIENT",
    "buckets": "INCONCLUSIVE",
}


@cache
def bundle_of(case: str) -> bytes:
    return write_bundle(*judged(spec(), CASES[case]()))


def no_file(name: str) -> bytes:
    raise InvalidFile(f"{name}: no such file", file=name)


def replayed(data: bytes, read_file: Callable[[str], bytes] = no_file) -> CanaryReport:
    return replay(read_bundle(data, NAME), NAME, read_file)


def refused(data: bytes, read_file: Callable[[str], bytes] = no_file) -> EvidenceRejected:
    with pytest.raises(EvidenceRejected) as caught:
        replayed(data, read_file)
    assert caught.value.message.startswith(f"{NAME}: ")
    assert caught.value.exit_code == 11
    return caught.value


@pytest.mark.parametrize("case", CASES)
def test_a_replay_gives_the_stored_verdict(case: str) -> None:
    report, samples = judged(spec(), CASES[case]())
    assert report.verdict is not None
    assert report.verdict.outcome == OUTCOMES[case]
    data = write_bundle(report, samples)
    assert data == write_bundle(report, samples)
    again = replayed(data)
    assert again.verdict == report.verdict
    assert (again.code, again.replayed, again.warnings) == (report.code, True, [])
    assert again.looks == report.looks
    assert again.distribution == report.distribution


@given(st.data())
@settings(max_examples=150)
def test_any_byte_changed_is_refused(draw: st.DataObject) -> None:
    data = bytearray(bundle_of("nothing"))
    place = draw.draw(st.integers(0, len(data) - 1))
    how = draw.draw(st.sampled_from(["changed", "left out", "put in", "swapped"]))
    if how == "changed":
        data[place] = draw.draw(st.integers(0, 255).filter(lambda byte: byte != data[place]))
    elif how == "left out":
        del data[place]
    elif how == "put in":
        data.insert(place, draw.draw(st.integers(0, 255)))
    else:
        data[place], data[place - 1] = data[place - 1], data[place]
    if data != bundle_of("nothing"):
        refused(bytes(data))


def changed(data: bytes, change: Callable[[Any], object]) -> bytes:
    tree = json.loads(data)
    change(tree)
    return canonical(tree)


@pytest.mark.parametrize("part", PARTS)
def test_what_was_changed_is_named(part: str) -> None:
    def change(tree: Any) -> None:
        inner = tree[part][-1] if isinstance(tree[part], list) else tree[part]
        name = next(name for name, value in inner.items() if isinstance(value, int | float | str))
        inner[name] = "other" if isinstance(inner[name], str) else inner[name] + 1

    case = "pass" if part != "distribution" else "buckets"
    if part == "distribution":
        data = changed(bundle_of(case), lambda tree: tree["distribution"]["edges"].append(9))
    else:
        data = changed(bundle_of(case), change)
    error = refused(data)
    assert error.facts["defect"] == "digest-mismatch"
    assert error.facts["parts"] == [part]
    assert f"its {part} " in error.message


@pytest.mark.parametrize(
    ("change", "defect"),
    [
        (lambda data: data + b"\n", "not-canonical"),
        (lambda data: json.dumps(json.loads(data), indent=1).encode(), "not-canonical"),
        (lambda data: data.replace(b'"window":500', b'"window":5e2', 1), "not-canonical"),
        (lambda data: changed(data, lambda tree: tree.update(digest="sha256:0")), "digest-mismatch"),
        (lambda data: changed(data, lambda tree: tree.update(more=1)), "digest-mismatch"),
        (lambda data: changed(data, lambda tree: tree.pop("digest")), "digest-mismatch"),
        (lambda data: changed(data, lambda tree: tree.pop("verdict")), "invalid-bundle"),
        (lambda data: changed(data, lambda tree: tree.pop("form")), "unknown-version"),
        (lambda data: changed(data, lambda tree: tree.update(form="somactl-canary-2")), "unknown-version"),
        (lambda data: data[:-9], "not-json"),
        (lambda data: data.decode().encode("utf-16"), "not-json"),
        (lambda data: b"[]", "not-json"),
        (lambda data: b"", "not-json"),
        (lambda data: b'{"form":"somactl-canary-1",' + data[1:], "repeated-member"),
    ],
)
def test_each_kind_of_damage_has_its_name(change: Callable[[bytes], bytes], defect: str) -> None:
    assert refused(change(bundle_of("nothing"))).facts["defect"] == defect


def resealed(data: bytes, change: Callable[[Any], object]) -> bytes:
    """As one would write it who can compute a digest."""
    tree = json.loads(data)
    change(tree)
    return canary_evidence._sealed({part: canonical(tree[part]) for part in PARTS})


def criterion(tree: Any, name: str) -> Any:
    return next(each for each in tree["verdict"]["criteria"] if each["name"] == name)


def latency(**values: Any) -> Callable[[Any], object]:
    return lambda tree: criterion(tree, "latency.margin")["passing"].update(values)


def more_evidence(by: float) -> Callable[[Any], None]:
    def change(tree: Any) -> None:
        criterion(tree, "latency.margin")["passing"]["log_e"] += by

    return change


@pytest.mark.parametrize(
    ("change", "defect", "says"),
    [
        (more_evidence(2e-6), "other-evidence", "latency.margin, passing: log E is "),
        (latency(candidate={"n": 501, "s": 2}), "other-evidence", "at its counts"),
        (latency(candidate={"n": 10, "s": 20}), "inconsistent", "it counts 20 of 10 samples"),
        (latency(alpha=0.2), "inconsistent", "its alpha is 0.2, and by the spec it is 0.05"),
        (latency(bar=1.0), "inconsistent", "its bar is 1"),
        (latency(k=1.0), "inconsistent", "its k is 1"),
        (latency(test="worse"), "inconsistent", "it is the test `worse`"),
        (latency(baseline=None), "inconsistent", "an arm is missing"),
        (lambda tree: tree["spec"].update(confidence=0.8), "inconsistent", "by the spec it is"),
        (lambda tree: tree["spec"]["criteria"].pop("errors"), "inconsistent", "its spec asks for"),
        (lambda tree: tree["spec"]["criteria"]["latency"].update(max=0.05), "inconsistent", "q is not"),
        (lambda tree: tree["spec"].update(window=490), "inconsistent", "its window"),
        (lambda tree: tree["verdict"].update(code=3), "inconsistent", "it says PASS, and the code 3"),
        (lambda tree: tree["verdict"].update(outcome="FAIL", code=3), "inconsistent", "it says FAIL"),
        (lambda tree: tree["verdict"].update(ended=False), "inconsistent", "before the end"),
        (lambda tree: criterion(tree, "errors").update(outcome="FAIL"), "inconsistent", "does not show"),
        (lambda tree: criterion(tree, "invariants").update(value=1), "inconsistent", "counts 1 violations"),
        (lambda tree: tree["verdict"].update(more=1), "unknown-member", "verdict.more"),
        (lambda tree: tree["verdict"].update(code="0"), "invalid-bundle", "no evidence of a canary check"),
        (lambda tree: tree["samples"]["values"].pop(100), "other-verdict", "judged again"),
    ],
)
def test_what_does_not_follow_is_refused_though_its_digests_are_right(
    change: Callable[[Any], object], defect: str, says: str
) -> None:
    error = refused(resealed(bundle_of("pass"), change))
    assert error.facts["defect"] == defect
    assert says in error.message


def test_a_fail_cannot_be_made_a_pass() -> None:
    def change(tree: Any) -> None:
        tree["verdict"].update(outcome="PASS", code=0, why="shown", criterion="errors", ended=True)
        for each in tree["verdict"]["criteria"]:
            each.update(outcome="PASS", why="shown")

    assert refused(resealed(bundle_of("slower"), change)).facts["defect"] == "inconsistent"


@pytest.mark.parametrize("by", [-9e-7, 9e-7])
def test_another_machine_may_differ_in_the_last_digits(by: float, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = canary_replay.recomputed
    monkeypatch.setattr(canary_replay, "recomputed", lambda evidence: compute(evidence) + by)
    assert replayed(bundle_of("pass")).code == 0
    monkeypatch.setattr(canary_replay, "recomputed", lambda evidence: compute(evidence) + 2 * by)
    assert refused(bundle_of("pass")).facts["defect"] == "other-evidence"


def test_a_judge_of_another_version_is_said_plainly() -> None:
    def change(tree: Any) -> None:
        tree["verdict"].update(judge="canary-0", unknown_then=1)
        tree["versions"].update(somactl="0.0.9")

    error = refused(resealed(bundle_of("pass"), change))
    assert error.facts["defect"] == "other-judge"
    assert "it was judged by canary-0, and the judge of this somactl is canary-1" in error.message
    assert error.hint == "replay it with somactl 0.0.9, which wrote it"


def lines(samples: list[AnySample]) -> bytes:
    return b"".join(msgspec.json.encode(sample) + b"\n" for sample in samples)


def recorded(data: bytes) -> tuple[CanaryReport, bytes]:
    asked = spec()
    found = read_recording({"baseline": "samples.ndjson", "candidate": "samples.ndjson"}, lambda name: data)
    verdict, watch = judge_recording(asked, found)
    report = CanaryReport(verdict=verdict, spec=asked, looks=watch.looks, recorded=True)
    return report, write_bundle(report, taken(watch, found))


@pytest.mark.parametrize("case", ["pass", "slower", "gap", "buckets"])
def test_a_large_recording_is_named_by_its_digest(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SAMPLES", 10)
    data = lines(CASES[case]())
    report, bundle = recorded(data)
    assert b'"values":null' in bundle
    assert replayed(bundle, lambda name: data).warnings == []
    assert replayed(bundle, lambda name: data).verdict == report.verdict
    without = replayed(bundle)
    assert without.verdict == report.verdict
    assert "were not judged again: samples.ndjson: no such file" in without.warnings[0]
    other = refused(bundle, lambda name: data.replace(b"1", b"2", 1))
    assert other.facts["defect"] == "other-samples"


def test_lines_that_are_no_samples_are_judged_again_from_their_file() -> None:
    data = lines(recording()) + b"{}\n"
    report, bundle = recorded(data)
    assert report.verdict is not None
    assert report.verdict.why == "trouble"
    assert replayed(bundle, lambda name: data).verdict == report.verdict


def test_a_run_that_looked_too_often_keeps_no_times_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary_evidence, "MOST_ASKED", 10)
    again = replayed(write_bundle(*judged(spec(), recording())))
    assert again.code == 0
    assert "when the judge was asked does not stand there" in again.warnings[0]


def test_what_is_not_final_is_replayed_as_that() -> None:
    watch = Watch(spec(), 0.0)
    watch.take(recording(seconds=250))
    watch.look(250.0)
    report = CanaryReport(spec=spec(), verdict=watch.verdict(250.0))
    assert report.verdict is not None
    assert (report.verdict.why, report.verdict.ended) == ("running", False)
    assert replayed(write_bundle(report, taken(watch))).verdict == report.verdict


def test_no_secret_stands_in_it() -> None:
    arm = Arm(
        source="probe", store="postgresql://me:hunter2@db/rho", cache="redis://:hunter2@c/0", health=None
    )
    other = Arm(source="prometheus", url="https://me:hunter2@prom:9090/x?token=hunter2")
    asked = msgspec.structs.replace(spec(), arms={"baseline": arm, "candidate": other})
    plain = without_secrets(asked).arms
    assert plain["baseline"].store == "postgresql://me@db/rho"
    assert plain["candidate"].url == "https://prom:9090/x"
    report, samples = judged(asked, recording(seconds=10))
    assert b"hunter2" not in write_bundle(report, samples)


FLAGS = ("--window", "500s", "--interval", "50s", "--latency-margin", "30%", "--invariants-violations", "0")


@pytest.mark.parametrize(("case", "code"), [("pass", 0), ("slower", 3), ("few", 4), ("gap", 5)])
def test_the_command_writes_evidence_and_replays_it(case: str, code: int, shell: Shell) -> None:
    shell.write("samples.ndjson", lines(CASES[case]()))
    files = ("--evidence", "canary.json", "--report", "report.html")
    first = shell("canary-check", "--samples", "samples.ndjson", *FLAGS, *files, "-o", "json")
    again = shell("canary-check", "--replay", "canary.json", "--report", "again.html", "-o", "json")
    assert (first.code, again.code) == (code, code), first.err + again.err
    assert again.json["verdict"] == first.json["verdict"]
    assert again.json["evidence_digest"] == first.json["evidence_digest"]
    assert (again.json["replayed"], again.json["warnings"]) == (True, [])
    pages = [(shell.folder / name).read_bytes() for name in ("report.html", "again.html")]
    assert pages[0] == pages[1]


def test_the_command_refuses_what_was_changed_and_what_does_not_go_together(shell: Shell) -> None:
    data = bundle_of("slower")
    shell.write("canary.json", data.replace(b'"outcome":"FAIL"', b'"outcome":"PASS"'))
    changed = shell("canary-check", "--replay", "canary.json", "-o", "json")
    assert changed.code == 11
    assert changed.error["facts"]["defect"] == "digest-mismatch"
    assert changed.error["facts"]["parts"] == ["verdict"]
    shell.write("canary.json", data)
    for more in (["--evidence", "b.json"], ["--spec", "x.yaml"], ["--latency-max", "1s"]):
        assert shell("canary-check", "--replay", "canary.json", *more).code == 2
    assert shell("canary-check", "--replay", "canary.json", "--report", "canary.json").code == 11
    assert (shell.folder / "canary.json").read_bytes() == data


def test_the_page_about_canaries_names_every_part_and_defect() -> None:
    page = (Path(__file__).parents[2] / "docs/CANARY.md").read_text(encoding="utf-8")
    assert [name for name in (*PARTS, *get_args(CanaryDefect)) if f"`{name}`" not in page] == []
    assert f"up to {MOST_SAMPLES:,};" in page


@pytest.mark.parametrize("beside", [True, False])
def test_many_live_samples_stand_in_a_file_beside_it(beside: bool, tmp_path: Path) -> None:
    report, samples = judged(spec(), recording())
    values = samples.values or []
    apart = tmp_path / "canary.json.samples.ndjson"
    with OutputFile(str(tmp_path / NAME)) as evidence, OutputFile(str(apart)) as other:
        written = Written(evidence, None, other if beside else None)
        written.keep_evidence(report, msgspec.structs.replace(samples, values=None), values)
    assert apart.exists() == beside
    bundle = read_bundle((tmp_path / NAME).read_bytes(), NAME)
    assert report.evidence_digest == bundle.digest
    assert (bundle.samples.values is None) == beside

    def read_file(name: str) -> bytes:
        return (tmp_path / Path(name).name).read_bytes()

    assert replay(bundle, str(tmp_path / NAME), read_file).warnings == []
    if beside:
        apart.write_bytes(apart.read_bytes().replace(b"1", b"2", 1))
        with pytest.raises(EvidenceRejected, match="another digest"):
            replay(bundle, str(tmp_path / NAME), read_file)

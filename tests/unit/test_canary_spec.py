"""The spec of a canary: the form that is documented, flags before it, and what is wrong by its line."""

from __future__ import annotations

from typing import Any

import pytest

from somactl.core.canary_spec import (
    FIELDS,
    SOURCES,
    Arm,
    Criteria,
    Invariants,
    LatencyLimit,
    ShareLimit,
    Spec,
)
from somactl.core.canary_spec_file import read_spec
from somactl.errors import ConfigurationError

TEXT = """\
version: 1
window: 2h
interval: 1s
confidence: 0.95
arms:
  baseline:  {source: probe, store: env:BASELINE, cache: env:CACHE, namespace: default, keys: "state:*"}
  candidate: {source: probe, store: env:CANDIDATE, cache: env:CACHE, namespace: default, keys: "state:*"}
criteria:
  invariants: {violations: 0, trace_error: 1e-8}
  latency:    {quantile: 0.95, max: 60ms, margin: 20%}
  errors:     {max_share: 1%}
  degraded:   {max_share: 5%}
  conflicts:  {max_share: 2%}
"""


def test_the_documented_form_is_read() -> None:
    def arm(store: str) -> Arm:
        return Arm(source="probe", store=store, cache="env:CACHE", namespace="default", keys="state:*")

    assert read_spec(TEXT, "canary.yaml") == Spec(
        version=1,
        window=7200.0,
        interval=1.0,
        confidence=0.95,
        arms={"baseline": arm("env:BASELINE"), "candidate": arm("env:CANDIDATE")},
        criteria=Criteria(
            invariants=Invariants(violations=0, trace_error=1e-8),
            latency=LatencyLimit(quantile=0.95, max=0.06, margin=0.2),
            errors=ShareLimit(max_share=0.01),
            degraded=ShareLimit(max_share=0.05),
            conflicts=ShareLimit(max_share=0.02),
        ),
    )
    assert read_spec(TEXT.encode(), "canary.yaml").alpha == 0.05


@pytest.mark.parametrize("path", FIELDS)
def test_every_field_is_a_flag_and_its_example_is_read(path: str) -> None:
    field = FIELDS[path]
    flags = {"criteria.latency.max": "1s", path: field.example}
    arm, _, name = path.rpartition(".")
    if path.startswith("arms."):
        source = next((source for source, names in SOURCES.items() if name in names), "probe")
        needed = {"probe": "store", "prometheus": "url", "samples": "file"}[source]
        flags = {f"{arm}.source": source, f"{arm}.{needed}": "x", path: field.example}
    text = TEXT.replace("  latency:    {quantile: 0.95, max: 60ms, margin: 20%}\n", "")
    if name == "health":
        del flags[f"{arm}.store"]
    found: Any = read_spec(text, "canary.yaml", flags)
    for part in path.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == (1 if path == "version" else field.read(field.example))


def test_a_flag_goes_before_the_file_and_a_source_before_all_of_its_arm() -> None:
    spec = read_spec(
        TEXT,
        "canary.yaml",
        {
            "criteria.latency.max": "80ms",
            "arms.baseline.source": "samples",
            "arms.baseline.file": "old.ndjson",
        },
    )
    assert spec.criteria.latency == LatencyLimit(quantile=0.95, max=0.08, margin=0.2)
    assert spec.arms["baseline"] == Arm(source="samples", file="old.ndjson")


def test_flags_alone_make_a_spec() -> None:
    flags = {
        f"arms.{arm}.{name}": value
        for arm in ("baseline", "candidate")
        for name, value in (("source", "samples"), ("file", "x"))
    }
    assert read_spec(None, "", {**flags, "criteria.errors.max_share": "1%"}).criteria.errors == ShareLimit(
        max_share=0.01
    )


WRONG = [
    # what to replace, by what, the line, and what is said
    ("60ms", "60", 10, "60 has no unit: write 60ms"),
    ("60ms", "60 parsecs", 10, "this is no time"),
    ("60ms", "0s", 10, "above 0"),
    ("20%", "20", 10, "is 20% meant?"),
    ("20%", "20ms", 10, "this is no share"),
    ("20%", "120%", 10, "above 100%"),
    ("1e-8", "1e-8s", 9, "this is no number"),
    ("1e-8", ".inf", 9, "this is no number"),
    ("violations: 0", "violations: -1", 9, "no whole number"),
    ("max: 60ms", "maximum: 60ms", 10, "unknown field"),
    ("errors: ", "error: ", 11, "unknown field"),
    ("window:", "windows:", 2, "unknown field"),
    ("interval:", "window:", 3, "given twice"),
    ("{max_share: 1%}", "{max_share: 1%, max_share: 2%}", 11, "given twice"),
    ("{max_share: 1%}", "{}", 11, "is missing"),
    ("{max_share: 1%}", "1%", 11, "a mapping is wanted"),
    ("{max_share: 1%}", "{max_share: 0%}", 11, "not above 0"),
    ("max: 60ms, margin: 20%", "quantile: 0.9", 10, "given twice"),
    ("{quantile: 0.95, max: 60ms, margin: 20%}", "{quantile: 0.95}", 10, "neither max nor margin"),
    ("source: probe, store", "source: prob, store", 6, "none of probe, prometheus, samples"),
    ("source: probe, ", "", 6, "is missing"),
    ("store: env:BASELINE", "store: env:BASELINE, url: x", 6, "a probe has no such field"),
    ("store: env:BASELINE", "store: env:BASELINE, health: x", 6, "one of the two"),
    ("store: env:BASELINE, cache: env:CACHE", "health: https://x", 6, "tells no latency"),
    ("confidence: 0.95", "confidence: 95", 4, "is 95% meant?"),
    ("confidence: 0.95", "confidence: yes", 4, "is no value here"),
    ("confidence: 0.95", "confidence:", 4, "is no value here"),
    ("interval: 1s", "interval: 1h", 3, "ten looks"),
    ("interval: 1s", "interval: [1s]", 3, "a list"),
    ("interval: 1s", "interval: {every: 1s}", 3, "one value is wanted"),
    ("version: 1", "version: 2", 1, "none of 1"),
    ("version: 1\n", "", 1, "`version` is missing"),
    ("  baseline:", "  baselines:", 6, "unknown field"),
    ("window: 2h", "window: &a 2h", 2, ""),
    ("window: 2h", "window: !!str 2h", 2, "aliases and tags"),
]


@pytest.mark.parametrize(("old", "new", "line", "says"), WRONG, ids=[f"{w[0]}-{w[1]}" for w in WRONG])
def test_what_is_wrong_is_named_with_its_line(old: str, new: str, line: int, says: str) -> None:
    if new.startswith("window: &a"):
        new = "window: 2h\ngap: *a"
        line = 3
    with pytest.raises(ConfigurationError) as caught:
        read_spec(TEXT.replace(old, new, 1), "canary.yaml")
    assert f"canary.yaml, line {line}" in caught.value.message
    assert says in caught.value.message


def test_nothing_to_judge_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="nothing would be judged"):
        read_spec(TEXT.partition("criteria:")[0], "canary.yaml")


def test_arms_of_two_sorts_are_refused() -> None:
    prometheus = "{source: prometheus, url: http://x, latency: read_seconds}"
    lines = [f"  candidate: {prometheus}" if "candidate:" in line else line for line in TEXT.splitlines()]
    with pytest.raises(ConfigurationError, match="line 6: `arms`: one arm times requests"):
        read_spec("\n".join(lines), "canary.yaml")


def test_a_wrong_flag_is_called_one() -> None:
    with pytest.raises(ConfigurationError, match=r"the flags: `criteria\.latency\.max`: 80 has no unit"):
        read_spec(TEXT, "canary.yaml", {"criteria.latency.max": "80"})


@pytest.mark.parametrize(
    "arm", ["{source: probe, store: env:S}", "{source: prometheus, url: http://x, latency: read_seconds}"]
)
def test_an_arm_is_not_compared_with_itself(arm: str) -> None:
    text = f"version: 1\narms:\n  baseline: {arm}\n  candidate: {arm}\ncriteria: {{latency: {{margin: 20%}}}}"
    with pytest.raises(ConfigurationError, match="compared with itself"):
        read_spec(text, "canary.yaml")

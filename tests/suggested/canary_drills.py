"""Canaries that fail or hold, and that the runbook leads to one that passes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from support.violation import put_violation
from tests.suggested.drills import Drill, drill
from tests.suggested.server_cases import Servers
from tests.suggested.stage import KEY, NAMESPACE, Stage

CRITERIA = "{invariants: {}}"
ENDS = {"--evidence": {0, 5}, "new.json": {0, 5}}
"""On a busy machine a short window may hold: `passes` then watches a longer one."""


def spec(stage: Stage, keys: str = "*", window: str = "3s") -> str:
    """A spec of the namespace against itself, of which the candidate reads these keys."""
    arm = f'source: probe, store: "sqlite:///my store.db", namespace: {json.dumps(NAMESPACE)}'
    lines = ["version: 1", f"window: {window}", "interval: 10ms", "gap: 1ms", "arms:"]
    lines += [
        f'  baseline: {{{arm}, keys: "good:*"}}',
        f"  candidate: {{{arm}, keys: {json.dumps(keys)}}}",
        f"criteria: {CRITERIA}",
    ]
    return stage.write("the spec.yaml", "\n".join([*lines, ""]))


def passes(stage: Stage) -> None:
    for window in ("3s", "10s", "40s"):
        found: Any = stage("-o", "json", "canary-check", "--spec", spec(stage, window=window))
        if found.code != 5:
            break
    assert found.code == 0, found.json["verdict"]["reason"]


def judged(stage: Stage, code: int, why: str) -> None:
    """The canary ends so, and its evidence is in evidence.json."""
    result = stage("-o", "json", "canary-check", "--spec", "the spec.yaml", "--evidence", "evidence.json")
    assert (result.code, result.json["verdict"]["why"]) == (code, why), result.err


@drill("CANARY")
def a_violation_in_the_candidate(stage: Stage, servers: Servers) -> Iterator[Drill]:
    stage.put("good:1")
    stage.put(KEY)
    put_violation(f"sqlite:///{stage.folder / 'my store.db'}", KEY, namespace=NAMESPACE)
    spec(stage)
    judged(stage, 3, "violated")
    codes = {"evidence.json": {3}, "verify-psd": {0, 3}, **ENDS}
    values = {"FILE": "evidence.json", "SPEC": "the spec.yaml", "KEY": KEY}
    yield Drill(values, codes=codes, mend=lambda: stage.put(KEY, 2))
    passes(stage)


@drill("CANARY")
def a_candidate_of_which_no_key_matches(stage: Stage, servers: Servers) -> Iterator[Drill]:
    stage.put("good:1")
    stage.put(KEY)
    spec(stage, keys="stat:*")
    judged(stage, 5, "trouble")
    codes = {"evidence.json": {5}, "verify-psd": {0, 4}, **ENDS}
    values = {"FILE": "evidence.json", "SPEC": "the spec.yaml", "KEY": KEY}
    yield Drill(values, codes=codes, mend=lambda: spec(stage))
    passes(stage)

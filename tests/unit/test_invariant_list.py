"""One entry in the list of invariants is a new invariant, in everything that somactl says and takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from somactl.core.invariants import check
from somactl.core.verdict import INVARIANTS, remedy_for
from somactl.errors import InvariantViolated

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.source

WITH_ONE_MORE = """
import contextlib, importlib.util, io, json, sys
import somactl.core

ENTRY = '''
class NotReal(InvariantViolated):
    exit_code = 3

REAL = Invariant(
    name="real",
    holds="No entry has an imaginary part.",
    measure=lambda subject, tolerance: float(abs(subject.entries().imag).max()),
    symbol="max |Im rho|",
    tolerance=0.125,
    effect="how large an imaginary part may be",
    remedy=lambda verdict, shape: Remedy("store its real part"),
    error=NotReal,
)
'''
LIST = "INVARIANTS: tuple[Invariant, ...] = (FINITE, SQUARE, HERMITIAN, TRACE, PSD"
spec = importlib.util.find_spec("somactl.core.verdict")
source = open(spec.origin, encoding="utf-8").read()
assert source.count(LIST) == 1
edited = importlib.util.module_from_spec(spec)
somactl.core.verdict = sys.modules[spec.name] = edited
exec(compile(source.replace(LIST, ENTRY + LIST + ", REAL"), spec.origin, "exec"), edited.__dict__)

import numpy as np
from somactl import Tolerances, check
from somactl.cli.app import run
from somactl.core.batch import check_envelopes
from somactl.core.envelope import encode, verify
from somactl.core.invariants import check_factor, check_packed
from somactl.core.lapack import flapack

sys.path.insert(0, "ROOT/docs")
import generate

twisted = np.array([[0.5, 0.25j], [-0.25j, 0.5]])
np.save("m.npy", twisted)
packed = flapack().ztrttf(twisted.T, transr="N", uplo="L")[0]
factor = np.linalg.cholesky(twisted)
data = encode(twisted, key="k").data

def cli(*words):
    out, err = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words)
    return code, out.buffer.getvalue().decode(), err.getvalue()

print(json.dumps({
    "verdicts": [[v.status, v.real_error, v.reasons, v.tolerances.real] for v in (
        check(twisted), check_packed(packed, 2), check_factor(factor), check(twisted, Tolerances(real=0.5)),
        check(twisted[:1]),
    )],
    "batch": [v.reasons for v in check_envelopes([(data, verify(data))] * 9).others.values()],
    "audit": cli("verify-psd", "--file", "m.npy", "--output", "json"),
    "allowed": cli("verify-psd", "--file", "m.npy", "--real-tolerance", "0.5"),
    "shown": cli("commit", "a=m.npy"),
    "commit": cli("commit", "a=m.npy", "--output", "json"),
    "explain": cli("explain", "real"),
    "config": cli("config"),
    "schema": dict(generate.schemas())["report.verify-psd.json"],
    "pages": [generate.invariants_page(), generate.configuration_page(), generate.cli_page()],
}))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    code = WITH_ONE_MORE.replace("ROOT", str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path_factory.mktemp("more"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_stands_in_the_verdict_however_the_matrix_lies(told: dict[str, Any]) -> None:
    out = ["violated", 0.25, ["real: max |Im rho| is 0.25, more than 0.125"], 0.125]
    *broken, allowed, misshapen = told["verdicts"]
    assert broken == [out, out, out]
    assert allowed == ["valid", 0.25, [], 0.5]
    assert misshapen == ["violated", None, ["square: the shape is (1, 2)"], 0.125]


def test_no_batch_passes_over_it(told: dict[str, Any]) -> None:
    assert told["batch"] == [["real: max |Im rho| is 0.25, more than 0.125"]] * 9


def test_it_stands_in_reports_and_their_schema(told: dict[str, Any]) -> None:
    code, out, _ = told["audit"]
    found = json.loads(out)
    verdict = found["results"][0]["verdict"]
    assert (code, verdict["real_error"], verdict["tolerances"]["real"]) == (3, 0.25, 0.125)
    schema = json.loads(told["schema"])
    assert {"real_error", "trace_error"} <= schema["$defs"]["Verdict"]["properties"].keys()
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(found)
    verdict["real_error"] = "much"
    assert not validator.is_valid(found)


def test_its_tolerance_is_a_setting_and_a_flag(told: dict[str, Any]) -> None:
    assert told["allowed"][0] == 0
    assert "real_tolerance" in told["config"][1]
    page, configuration, cli = told["pages"]
    assert "`SOMACTL_REAL_TOLERANCE`" in configuration
    assert cli.count("--real-tolerance EPS") == 3  # the commands that check matrices
    assert "## real\n" in page


def test_it_refuses_a_commit_in_its_own_words(told: dict[str, Any]) -> None:
    code, _, err = told["commit"]
    found = json.loads(err.splitlines()[-1])
    assert (code, found["error"], found["hint"]) == (3, "NotReal", "store its real part")
    assert "real: max |Im rho| is 0.25, more than 0.125" in found["message"]
    assert "real error: 2.500e-01 (tolerance 1.2e-01)" in told["shown"][2]


def test_explain_tells_of_it(told: dict[str, Any]) -> None:
    code, out, _ = told["explain"]
    assert code == 0
    for words in ("No entry has an imaginary part.", "--real-tolerance", "NotReal", "exit code 3"):
        assert words in out


def test_the_first_broken_one_that_knows_a_remedy_names_it() -> None:
    both = remedy_for(check([[0.9, 0.1], [0.0, 0.9]]))  # neither Hermitian nor of trace 1
    assert both[0].hint.startswith("`normalize`")
    assert both[1] is InvariantViolated
    assert remedy_for(check([[0.5, 0.1], [0.0, 0.5]]))[0].hint.endswith("no farther than D")
    assert remedy_for(check([[1.0, 2.0]]))[0].next[0].options == (("kind", "matrix"),)
    assert [each.name for each in INVARIANTS] == ["finite", "square", "hermitian", "trace", "psd"]

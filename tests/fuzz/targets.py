"""Every parser of bytes that come from outside, with sound inputs to damage."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np

from somactl import config
from somactl.cli import inputs
from somactl.cli.render_evidence import check_lines
from somactl.config_file import read_file
from somactl.core import framing, matrix_file, names
from somactl.core.canary_samples import read_samples
from somactl.core.canary_spec_file import read_spec
from somactl.core.canonical import canonical, read
from somactl.core.envelope import deserialize_matrix, serialize_matrix
from somactl.core.json_pointer import locate
from somactl.core.legacy_json import parse_matrix
from somactl.core.matrix_file import parse_matrix_file
from somactl.core.ndjson_line import split
from somactl.core.order import parse_order
from somactl.errors import EvidenceRejected, SomactlError
from somactl.legacy.json_edit import read_reference
from somactl.legacy.kinds import classify
from somactl.legacy.plan import Plan, PlanWriter
from somactl.legacy.request import MigrationContext, MigrationRequest
from somactl.legacy.source.files import parse_words
from somactl.legacy.values import find_matrices
from somactl.operations.audit.accepted import parse_accepted
from somactl.report import EvidenceCheckReport
from somactl.report.evidence import read_evidence
from somactl.report.evidence_check import examined
from somactl.report.evidence_merge import merge_evidence
from somactl.store.postgres import connections as postgres
from somactl.store.redis import connection as redis
from support.judging import judge_all

RHO = np.array([[0.5, 0.25], [0.25, 0.5]])


@dataclass(frozen=True)
class Target:
    """`run` raises an error of the tree, or one that its docstring names, for what it does not read.

    share   how many of a thousand damaged inputs it gets
    """

    run: Callable[[bytes], object]
    seeds: Sequence[bytes]
    share: int
    words: Sequence[bytes] = ()
    raises: tuple[type[Exception], ...] = (SomactlError,)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(compressed: bool) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, a=RHO)
    return file.getvalue()


def header(text: str, version: int = 1) -> bytes:
    data = text.encode("utf-8" if version == 3 else "latin1")
    width = 2 if version == 1 else 4
    return b"\x93NUMPY" + bytes([version, 0]) + len(data).to_bytes(width, "little") + data + bytes(32)


def plan() -> bytes:
    file = io.BytesIO()
    made_for = SimpleNamespace(
        source=SimpleNamespace(identity="json files", name="n"),
        store=SimpleNamespace(namespace="default"),
        request=MigrationRequest(),
    )
    writer = PlanWriter(file.write, cast(MigrationContext, made_for))
    writer.seal()
    return file.getvalue()


def _matrix(data: bytes) -> object:
    return parse_matrix_file(data, "f").array


def _values(data: bytes) -> None:
    for discover in (False, True):
        for site in find_matrices(data, discover=discover).sites:
            try:
                classify("k", site)
            except SomactlError:
                continue


def _pointers(data: bytes) -> None:
    pointer, _, text = data.partition(b"\n")
    locate(text, [pointer.decode("utf-8", "replace"), ""])


def _glob(data: bytes) -> None:
    pattern, _, key = data.decode("utf-8", "surrogateescape").partition("\n")
    names.Pattern(pattern).matches(key[:1024])


def _names(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for check in (
        names.validate_key,
        names.validate_namespace,
        names.validate_commit_id,
        names.validate_kind,
    ):
        try:
            check(text)
        except SomactlError:
            continue
    names.commit_id_time(text)


def _words(data: bytes) -> None:
    words = data.decode("utf-8", "surrogateescape").split("\n")
    for parse in (inputs.parse_expectations, inputs.parse_metadata, parse_words):
        try:
            parse(words)
        except SomactlError:
            continue


def _address(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for parse in (
        redis.parse,
        postgres.parse,
        lambda url: config.load({"store": url}, {}),
        lambda url: config.load({"store": "sqlite:///a.db"}, {"SOMACTL_CACHE": url, "SOMACTL_STORE": url}),
    ):
        try:
            parse(text)
        except SomactlError:
            continue


_FOLDER = Path(tempfile.mkdtemp(prefix="somactl-fuzz-"))


def _config(ending: str) -> Callable[[bytes], object]:
    path = _FOLDER / f"somactl.{ending}"

    def run(data: bytes) -> object:
        path.write_bytes(data)
        return read_file(str(path), config.SETTINGS)

    return run


NUMPY_FORM = json.dumps(
    {
        "__np__": True,
        "data": "AAAAAAAA4D8AAAAAAADQPwAAAAAAANA/AAAAAAAA4D8=",
        "dtype": "float64",
        "shape": [2, 2],
    }
).encode()
LISTS = b"[[0.5, 0.25], [0.25, 0.5]]"
NESTED = b'{"task": "note", "at": [1.0, 2.0], "rho": %s, "old": %s, "text": "[[1, 2]]"}' % (NUMPY_FORM, LISTS)
ENVELOPES = [
    serialize_matrix(RHO, key="k", kind="rho"),
    serialize_matrix(RHO, key="k", kind="rho", layout="full"),
    serialize_matrix(np.zeros((30, 30)), key="k", kind="matrix", layout="full", compression="zstd"),
]
_DESCRS = (
    b"'<f8'",
    b"'f8'",
    b"',f8'",
    b"'|u (3, 2), }  1'",
    b"'float64'",
    b"[('a', '<f8')]",
    b"(3L, 3L)",
    b"u'<f8'",
)

ACCEPTED = b"""version: 1
accepted:
  - key: "acme:(9.0, 14.0, 43.0):data"
    digest: 4f0c7a52b19d3e8860f1c2ab94d75e36
    owner: ana@example.org
    reason: >
      known since May
    expires: 2027-01-31
    outcome: violated
"""

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
EVIDENCE = [(GOLDEN / f"{name}.evidence.json").read_bytes() for name in ("audit", "sum")]


def _evidence(data: bytes) -> object:
    """What is damaged gets the digest that belongs to it, or nothing behind the digest would be reached."""
    try:
        tree = read(data.decode())
        body = canonical({name: value for name, value in tree.items() if name != "digest"})
        data = canonical({**tree, "digest": f"sha256:{hashlib.sha256(body).hexdigest()}"})
    except (ValueError, RecursionError, AttributeError):
        return read_evidence(data, "a")
    evidence = read_evidence(data, "a")
    check_lines(EvidenceCheckReport(files=[examined(data, "a")]))
    with suppress(EvidenceRejected):  # the same twice; or it belies itself
        merge_evidence([evidence, evidence])
    return evidence


CANARY_SPEC = b"""version: 1
window: 100s
interval: 10s
arms:
  baseline: {source: samples, file: a.ndjson}
  candidate: {source: prometheus, url: "http://p:9090", latency: read_seconds}
criteria:
  invariants: {violations: 0, trace_error: 1e-8}
  latency: {quantile: 0.95, max: 60ms, margin: 20%}
  errors: {max_share: 1%}
"""
CANARY_SAMPLES = b"".join(
    b'{"t": %d, "arm": "%s", "kind": %s}\n' % (t, arm, kind)
    for t, kind in enumerate(
        [
            b'"latency", "seconds": 0.012',
            b'"verdict", "psd": "valid", "trace_error": 1e-12, "key": "a"',
            b'"buckets", "edges": [0.01, 0.06], "counts": [1200, 31, 2]',
            b'"counts", "of": "errors", "bad": 3, "total": 848',
            b'"degraded", "on": false',
            b'"trouble", "what": "no-series"',
        ]
    )
    for arm in (b"baseline", b"candidate")
)


def _canary(data: bytes) -> object:
    return judge_all(read_spec(CANARY_SPEC, "a"), read_samples(data.splitlines()))


TARGETS = {
    "npy": Target(_matrix, [npy(RHO), npy(RHO.astype("c16")), npy(np.asfortranarray(RHO))], 80, _DESCRS),
    "npy header": Target(
        matrix_file.read_npy_header,
        [header("{'descr': '<f8', 'fortran_order': False, 'shape': (2L, 2L), }", v) for v in (1, 2, 3)],
        80,
        _DESCRS,
        (ValueError,),
    ),
    "npz": Target(_matrix, [npz(False), npz(True)], 40),
    "envelope": Target(deserialize_matrix, ENVELOPES, 80),
    "envelope file": Target(_matrix, ENVELOPES, 40),
    "envelope text": Target(deserialize_matrix, [framing.to_text(e).encode() for e in ENVELOPES], 40),
    "legacy json": Target(parse_matrix, [NUMPY_FORM, LISTS, json.dumps(LISTS.decode()).encode()], 100),
    "legacy value": Target(_values, [NESTED, NUMPY_FORM, LISTS, json.dumps(NESTED.decode()).encode()], 100),
    "reference": Target(read_reference, [b'{"__somactl__": {"key": "k", "version": 1, "digest": "ab"}}'], 20),
    "pointer": Target(_pointers, [b"/rho/data\n" + NESTED, b"/a~1b/0\n" + b'{"a/b": [1, [2]]}'], 60),
    "ndjson line": Target(
        split, [b'{"key": "a", "value": %s}' % LISTS, b'{"value": null, "key": "a"}'], 60, (), (ValueError,)
    ),
    "commit lines": Target(
        inputs.parse_ndjson, [b'{"key": "a", "value": %s}\n{"key": "b", "value": null}\n' % LISTS], 40
    ),
    "order": Target(
        parse_order,
        [
            b"# keys\na\nb\n",
            b'["a", {"key": "b", "version": 2}]',
            b'"a"\n{"key": "b", "version": 2}\n',
            b'{"order_id": "o1", "issued_at": 1, "expires_at": "2026-01-31T12:00:00Z", "issuer": "m",'
            b' "sequence": 1, "namespace": "default", "keys": ["a"]}',
        ],
        80,
    ),
    "plan": Target(lambda data: Plan(io.BytesIO(data), "p"), [plan()], 20),
    "accepted": Target(
        lambda data: parse_accepted(data, "a"), [ACCEPTED], 20, (b"&a ", b"*a", b"<<: ", b"!!int ")
    ),
    "evidence": Target(_evidence, EVIDENCE, 15, (b"null", b"-1", b"1e300", b'"\xc3\xa9"')),
    "canary spec": Target(
        lambda data: read_spec(data, "a"), [CANARY_SPEC], 8, (b"&a ", b"1e-8", b"%", b"ms")
    ),
    "canary samples": Target(_canary, [CANARY_SAMPLES], 5, (b"NaN", b"-1", b"1e300", b"2147483648")),
    "toml": Target(_config("toml"), [b'store = "sqlite:///a.db"\nread_timeout_ms = 20\n'], 10),
    "yaml": Target(_config("yaml"), [b"store: sqlite:///a.db\nread_timeout_ms: 20\n"], 10),
    "glob": Target(_glob, [b"acme:*:d?ta\nacme:(1.0):data", b"\\*a*b*\n*ab"], 60),
    "names": Target(
        _names, [b"acme:(1.0, 2.0):data", b"default", b"01a227be-cb60-77b5-bbd5-0c29bf9552d3"], 40
    ),
    "words": Target(_words, [b"a=1\nb=sha:00ff", b"abc:7", b"k=v\nx=y", b"a=dir/a.json\nb.json"], 20),
    "address": Target(
        _address,
        [
            b"redis://u:p@h:6379/2?wait_replicas=1",
            b"redis+cluster://[::1]:7000,b:7001",
            b"unix:///run/r.sock?db=1",
            b"postgresql://u:p@h:5432,g/db?sslmode=require&host=/run",
            b"sqlite:///a/b.db",
            b"host=h user=u password=p dbname=d",
        ],
        20,
        (b":65536", b"?db=2", b"://", b"@", b"[", b"]", b"?port=x", b"%00", b"?host=", b"//"),
    ),
}

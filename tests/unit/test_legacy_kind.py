"""What kind a matrix of the old service is taken for, and the outcome of every value it left behind."""

from __future__ import annotations

import base64
import json
from collections import Counter

import numpy as np
import pytest

from somactl.core.envelope import serialize_matrix
from somactl.errors import InputRejected, InvariantViolated, UsageError
from somactl.legacy.kinds import Judged, classify, decide_kind
from somactl.legacy.values import Discovery, Site, find_matrices
from somactl.operations.admission import Policy, admit
from support.legacy_values import dumped


def only(found: Discovery) -> Site:
    (site,) = found.sites
    return site


LEGACY = dumped()
RHOS = [f"rho:{i}" for i in range(7)] + [f"rho:list:{i}" for i in range(4)] + ["rho:f32", "rho:lowrank"]


def outcome(key: str, site: Site) -> str:
    """As the migration will have it: what judge decides, and admission proves."""
    try:
        judged = classify(key, site)
        assert judged.array is not None
        admitted = admit(judged.array, judged.target, "acme", Policy(), 0.0, kind=judged.kind)
    except InvariantViolated as error:
        return f"rejected, {error.verdict.status}"
    except InputRejected:
        return "rejected"
    moved = "clamped " if admitted.moves else ""
    return f"{moved}{judged.kind}"


def test_every_legacy_key_has_its_outcome() -> None:
    expected = {f"acme:{name}": "rho" for name in RHOS} | {
        "acme:sketch:0": "sketch",
        "acme:rho:tinyneg": "clamped rho",
        "acme:rho:trace": "rejected, violated",
        "acme:rho:neg": "rejected, violated",
        "acme:rho:asym": "rejected, violated",
        "acme:broken:b64": "rejected",
        "acme:broken:ragged": "rejected",
    }
    assert len(LEGACY) == 481
    reasons: Counter[str] = Counter()
    for key, value in LEGACY.items():
        found = find_matrices(value)
        if key in expected:
            site = only(found)
            assert (site.pointer, site.text) == ("", value)
            assert outcome(key, site) == expected[key], key
        else:
            assert found.sites == ()
            reasons[found.reason] += 1
    assert reasons == {"an object without `__np__`": 460, "text": 1}


def test_discovery_finds_the_embedded_legacy_matrices_and_no_others() -> None:
    counts: Counter[tuple[str, str]] = Counter()
    for key, value in LEGACY.items():
        for site in find_matrices(value, discover=True).sites:
            counts[key.split(":")[1][:1], site.pointer] += 1
            if site.pointer:
                assert outcome(key, site) == "rho"
                assert find_matrices(value, pointers=["/rho", "/value/rho"]).sites == (site,)
    # 20 of the objects under a coordinate, 20 write-ahead entries, and the whole values
    assert counts == {("(", "/rho"): 20, ("w", "/value/rho"): 20, ("r", ""): 17, ("s", ""): 1, ("b", ""): 2}


# Kinds.


def judged(array: np.ndarray, kind: str = "auto") -> Judged:
    data = base64.b64encode(array.tobytes()).decode()
    form = {"__np__": True, "data": data, "dtype": str(array.dtype), "shape": list(array.shape)}
    return classify("k", Site("", "numpy", json.dumps(form).encode()), kind=kind)


def density(n: int, seed: int = 0, *, dtype: str = "float64") -> np.ndarray:
    a = np.random.default_rng(seed).standard_normal((n, n, 2)) @ np.array([1.0, 1.0j])
    a = a if np.dtype(dtype).kind == "c" else a.real
    rho = a @ a.conj().T
    result: np.ndarray = (rho / np.trace(rho).real).astype(dtype)
    return result


@pytest.mark.parametrize("n", [1, 2, 3, 16, 130, 300])
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
def test_what_is_or_was_meant_as_a_density_matrix_is_a_rho(n: int, dtype: str) -> None:
    rho = density(n, dtype=dtype)
    scaled, off, far, flipped = rho * 1.05, rho.copy(), rho.copy(), rho - np.eye(n, dtype=dtype) * (0.05 / n)
    off[0, n - 1] += 1e-3
    far[0, n - 1] *= -1e30
    for array in (rho, scaled, flipped, off) + ((far,) if n > 2 else ()):
        assert judged(array).kind == "rho", (n, dtype)


@pytest.mark.parametrize(
    ("array", "kind", "reason"),
    [
        (np.ones((12, 64)), "sketch", "12 x 64: fewer rows than columns"),
        (np.ones((1, 2)), "sketch", "1 x 2: fewer rows than columns"),
        (np.ones((64, 12)), "matrix", "64 x 12: more rows than columns"),
        (np.eye(4), "matrix", "square, but its trace is 4, not within 0.1 of 1"),
        (np.zeros((4, 4)), "matrix", "square, but its trace is 0, not within 0.1 of 1"),
        (-density(4), "matrix", "square, but its trace is -1, not within 0.1 of 1"),
        (np.full((2, 2), 1e308), "matrix", "square, but its trace is inf, not within 0.1 of 1"),
        (
            np.triu(np.full((4, 4), 0.25)),
            "matrix",
            "square, trace 1, but not Hermitian: 25% of its entries mirror",
        ),
        (density(4) * 1.01, "rho", "square, trace 1.01, 100% of its entries mirror"),
    ],
)
def test_auto_says_what_it_decided_and_why(array: np.ndarray, kind: str, reason: str) -> None:
    assert decide_kind(array) == (kind, reason)
    assert (judged(array).kind, judged(array).reason) == (kind, reason)


def test_transition_matrices_are_no_density_matrices_though_their_trace_is_near_1() -> None:
    rng = np.random.default_rng(1)
    for n in (8, 64, 200):
        rows = rng.exponential(size=(n, n))
        rows /= rows.sum(axis=1, keepdims=True)
        rows[np.diag_indices(n)] /= np.trace(rows)
        assert judged(rows).kind == "matrix"


def test_a_kind_that_is_asked_for_is_taken() -> None:
    for kind in ("rho", "sketch", "matrix"):
        found = judged(np.eye(4), kind)
        assert (found.kind, found.reason, found.dtype, found.shape) == (kind, "asked for", "float64", (4, 4))
    with pytest.raises(UsageError, match="'state' is none of auto, rho, sketch, matrix"):
        judged(np.eye(2), "state")


def test_the_kind_of_an_envelope_is_its_own() -> None:
    sketch = serialize_matrix(np.ones((3, 3)), key="k", kind="sketch", dtype="float32")
    found = classify("other", only(find_matrices(sketch)))
    assert (found.kind, found.reason) == ("sketch", "its envelope says so")
    assert (found.target, found.dtype, found.shape, found.array) == ("other", "float32", (3, 3), None)
    assert found.header is not None
    assert classify("k", only(find_matrices(sketch)), kind="matrix").kind == "matrix"

"""A batch finds what the check of each envelope alone finds, to the last bit: of matrices at every edge."""

from __future__ import annotations

import math
import os
import threading
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from somactl.core import batch, byte_shuffle, framing
from somactl.core.batch import Batch, check_envelopes
from somactl.core.certificate import proving_shift, rounding_bound, smallest_tolerance
from somactl.core.draft import trace_error, trace_errors
from somactl.core.framing import Header, build_header, digest
from somactl.core.hermitian import pack
from somactl.core.lapack import limited
from somactl.core.stack import Form, prove
from somactl.core.verdict import Tolerances, Verdict
from somactl.core.verification import check_envelope
from somactl.errors import CorruptValue, EnvelopeError, SomactlError
from support.arithmetic import run
from support.exact import at_least

Array = np.ndarray[Any, np.dtype[Any]]
Item = tuple[bytes, Header]

MATRICES = 100_000 if os.environ.get("SOMACTL_TEST_NIGHT") else 10_000
A_CALL = 1_000
TYPES = ("float64", "complex128", "float32", "complex64")
MULTIPLES = (-1e4, -10.0, -2.1, -1.1, -0.9, -0.1, 0.0, 0.1, 0.9, 1.1, 1.9, 2.1, 10.0, 1e4)
"""Of c: how far lambda_min is put from an edge."""

EPS = 2.0**-27
TOLERANCES = (
    Tolerances(),
    Tolerances(psd=EPS, trace=EPS, hermitian=0.0),
    Tolerances(psd=1e-14, trace=2.0),
    Tolerances(psd=2.0**-48, trace=2.0),
    Tolerances(psd=math.inf, trace=math.inf, hermitian=math.inf),
)
"""Those of the calls, in turn."""
HOPELESS = (
    Tolerances(psd=0.0, trace=0.0, hermitian=0.0),
    Tolerances(psd=math.nan),
    Tolerances(trace=math.nan),
    Tolerances(hermitian=math.nan),
    Tolerances(hermitian=-1.0),
)


def stored(raw: Array, n: int, layout: str, *, zstd: bool = False, canonical: bytes | None = None) -> Item:
    """The envelope of a payload that `encode` might refuse, with its header."""
    data = byte_shuffle.compress(raw) if zstd else raw.tobytes()
    of_payload = digest(data)
    head = build_header(
        kind="rho",
        dtype=raw.dtype.name,
        shape=(n, raw.size // n if layout == "factor" else n),
        layout=layout,
        compression="zstd" if zstd else "none",
        timestamp=0.0,
        namespace="default",
        key="k",
        payload_length=len(data),
        payload_digest=of_payload,
        canonical_digest=canonical or (digest(raw.tobytes()) if zstd else of_payload),
    )
    return head + data, framing.verify(head + data)


def alone(item: Item, tolerances: Tolerances | None, **options: Any) -> Verdict | SomactlError:
    try:
        return check_envelope(*item, tolerances, **options)
    except (EnvelopeError, CorruptValue) as exc:
        return exc


def bits(outcome: Verdict | SomactlError) -> Any:
    """What two outcomes must have in common: unlike `==`, this tells -0.0 from 0.0, and NaN is NaN."""
    if isinstance(outcome, Verdict):
        return repr(outcome), repr(outcome.witness and outcome.witness.vector)
    return type(outcome), outcome.message


def assert_same(found: Batch, expected: Sequence[Verdict | SomactlError]) -> None:
    """Outcome by outcome; and their sums, as an audit adds verdicts up one by one."""
    assert found.count == len(expected)
    for index, outcome in enumerate(expected):
        valid = isinstance(outcome, Verdict) and outcome.valid
        assert (index in found.others) is not valid
        assert bits(found.verdict(index) if valid else found.others[index]) == bits(outcome), index
    verdicts = [each for each in expected if isinstance(each, Verdict)]
    assert found.valid == sum(each.valid for each in verdicts)
    worst = lowest = None
    for each in verdicts:
        if each.trace_error is not None:
            worst = max(worst or 0.0, each.trace_error)
        bound = each.lambda_min_lower if each.lambda_min_upper is None else each.lambda_min_upper
        if bound is not None:
            lowest = min(bound, lowest or 0.0)
    assert (found.worst_trace_error, found.lowest_lambda_min) == (worst, lowest)
    rigours = {each.rigour for each in verdicts}
    assert found.rigour == ("computed" if "computed" in rigours else "proved" if rigours else None)
    assert found.blas == next((each.blas for each in verdicts if each.blas), "")
    assert list(found.others) == sorted(found.others)


class Edges:
    """Matrices that a rounding error more or less would put on the other side of some edge."""

    def __init__(self, seed: int, tolerances: Tolerances) -> None:
        self.rng = np.random.default_rng(seed)
        self.tolerances = tolerances
        self._unitary: dict[tuple[int, bool], Array] = {}

    def unitary(self, n: int, cplx: bool) -> Array:
        if (n, cplx) not in self._unitary or self.rng.random() < 0.02:
            x = self.rng.standard_normal((n, n)) + (1j * self.rng.standard_normal((n, n)) if cplx else 0.0)
            self._unitary[n, cplx] = np.linalg.qr(x)[0]
        return self._unitary[n, cplx]

    def spectral(self, n: int, cplx: bool) -> Array:
        """lambda_min at some multiple of c from -eps, from the lowest provable -2c, from -c, or from 0."""
        rng = self.rng
        values = rng.random(n) if rng.random() < 0.7 else np.eye(1, n, int(rng.integers(n)))[0] + 1e-18
        values /= values.sum()
        c = rounding_bound(values, 0.0, 0.0, cplx)
        eps = self.tolerances.psd if 0.0 < self.tolerances.psd < 1e-6 else 1e-8
        if rng.random() < 0.4:
            values[0] = float(rng.choice([-eps, -2.0 * c, -c, 0.0])) + float(rng.choice(MULTIPLES)) * c
        u = self.unitary(n, cplx)
        h = (u * values) @ u.conj().T
        return (h + h.conj().T) / 2

    def graded(self, n: int, cplx: bool) -> Array:
        """A pivot that is 0 to a few units in its last place, at the shift of the proof."""
        rng = self.rng
        order = rng.permutation(n)
        h = np.zeros((n, n), np.complex128 if cplx else np.float64)
        d = np.zeros(n)
        d[order[: max(1, n - 2)]] = 1.0 / max(1, n - 2)
        i, j = (order[-1], order[-2]) if n > 1 else (0, 0)
        paired = n > 2 and bool(rng.random() < 0.5)
        x, y = float(rng.random()) * 1e-16, 0.0
        for _ in range(4):  # the shift depends, a little, on what is put there
            d[i], d[j] = (x, x) if paired else (y, d[j])
            e = smallest_tolerance(d, 0.0, cplx)
            shift = proving_shift(d, e, 0.0, cplx) or 0.0
            y = x + shift if paired else -shift
        y += int(rng.integers(-2, 3)) * float(np.spacing(y))
        h[np.diag_indices(n)] = d
        if paired:
            phase = rng.choice([1, -1, 1j, -1j] if cplx else [1, -1])
            h[i, j], h[j, i] = y * phase, y * np.conj(phase)
        else:
            h[i, i] = y
        return h

    def traced(self, n: int, cplx: bool) -> Array:
        """The trace's error at the tolerance, a unit in the last place off, or off by what rounding hides."""
        rng = self.rng
        wanted = self.tolerances.trace if 0.0 <= self.tolerances.trace < 1.0 else EPS
        d = np.full(n, 2.0 ** -math.ceil(math.log2(n)))
        if n > 1:
            d[-1] = float(rng.choice([d[-1], 2.0**-90, -(2.0**-90)]))
        d[0] += (1.0 - math.fsum(d)) + float(rng.choice([1.0, -1.0])) * wanted
        d[0] += int(rng.choice([0, 0, 1, -1])) * float(np.spacing(d[0]))
        return np.diag(d).astype(np.complex128 if cplx else np.float64)

    def poisoned(self, payload: Array) -> None:
        """A number that no matrix has, or that is seldom seen, anywhere in the payload; or its scale."""
        rng = self.rng
        flat = payload.view(payload.real.dtype)
        at = int(rng.integers(flat.size))
        tiny = float(np.finfo(flat.dtype).smallest_subnormal)
        choice = int(rng.integers(9))
        if choice == 8:
            flat *= float(rng.choice([1e300, 1e38, 1e-300, 1e-30]))
        else:
            some = (np.nan, np.inf, -np.inf, -0.0, tiny, -tiny, float(np.finfo(flat.dtype).max), 1.0)
            flat[at] = some[choice]

    def item(self, n: int, dtype: str, layout: str) -> Item:
        rng = self.rng
        cplx = dtype.startswith("complex")
        if layout == "factor":
            payload = self.unitary(n, cplx)[:, : int(rng.integers(1, n + 1))].copy()
            payload /= np.linalg.norm(payload)
        else:
            kind = rng.choice([self.spectral, self.spectral, self.graded, self.traced])
            matrix = np.ascontiguousarray(kind(n, cplx))
            if layout == "full" and rng.random() < 0.1:
                matrix[0, -1] += float(rng.choice([1e-18, 1e-15, 1e-9, 1e-7]))
            payload = pack(matrix) if layout == "hermitian" else matrix
        payload = np.ascontiguousarray(payload, dtype).reshape(-1)
        if rng.random() < 0.15:
            with np.errstate(all="ignore"):
                self.poisoned(payload)
        zstd = bool(rng.random() < 0.1)
        wrong = b"\1" * 16 if zstd and rng.random() < 0.1 else None
        return stored(payload, n, layout, zstd=zstd, canonical=wrong)

    def call(self, count: int) -> list[Item]:
        """The envelopes of one call: a few orders, so that there is something to stack."""
        rng = self.rng
        orders = [
            *rng.integers(1, 41, 4).tolist(),
            int(rng.integers(1, 4)),
            int(rng.choice([48, 64, 65, 96])),
        ]
        forms = [
            (n, str(rng.choice(TYPES, p=(0.6, 0.2, 0.1, 0.1))), str(rng.choice(LAYOUTS, p=(0.55, 0.4, 0.05))))
            for n in orders
            for _ in range(4)
        ]
        with limited(1):  # or numpy's BLAS starts threads for each
            return [self.item(*forms[index]) for index in rng.integers(len(forms), size=count).tolist()]


LAYOUTS = ("hermitian", "full", "factor")


@pytest.mark.parametrize("call", range(MATRICES // A_CALL))
def test_a_batch_finds_what_each_check_finds(call: int) -> None:
    tolerances = TOLERANCES[call % len(TOLERANCES)]
    items = Edges(call, tolerances).call(A_CALL)
    assert_same(check_envelopes(items, tolerances), [alone(item, tolerances) for item in items])


@pytest.mark.parametrize("tolerances", HOPELESS)
def test_tolerances_that_nothing_meets(tolerances: Tolerances) -> None:
    items = Edges(5, tolerances).call(100)
    assert_same(check_envelopes(items, tolerances), [alone(item, tolerances) for item in items])


def test_the_trace_of_each_row_is_rounded_as_the_one_of_a_matrix() -> None:
    """Of all sizes of entries, as the single check adds them up, which is exact."""
    rng = np.random.default_rng(0)
    rare = [np.nan, np.inf, -np.inf, 1e308, 5e-324, 2.0, math.nextafter(2.0, 3.0), 2.0**-87, 3 * 2.0**-88]
    for n in (1, 2, 3, 16, 64, 255, 510):
        for decades in (0.0, 1.0, 3.0, 12.0, 30.0, 320.0) * 10:
            d = rng.random((9, n)) * 10.0 ** rng.uniform(-decades, 0, (9, n)) * rng.choice([1, 1, -1], (9, n))
            with np.errstate(all="ignore"):
                d[:8] /= d[:8].sum(axis=1, keepdims=True)
                d[4, rng.integers(n)] = rng.choice(rare)
                found = trace_errors(d)
            assert found.tobytes() == np.array([trace_error(row) for row in d]).tobytes()


def density(n: int, seed: int, cplx: bool = False) -> Array:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if cplx else 0.0)
    a = x @ x.conj().T
    a = (a + a.conj().T) / 2
    return np.ascontiguousarray(a / np.trace(a).real)


def of_matrix(matrix: Array, layout: str = "hermitian", *, zstd: bool = False) -> Item:
    raw = pack(matrix) if layout == "hermitian" else matrix.reshape(-1)
    return stored(np.ascontiguousarray(raw), len(matrix), layout, zstd=zstd)


@pytest.fixture
def singles(monkeypatch: pytest.MonkeyPatch) -> list[Header]:
    """The headers of those that went through the check of one envelope."""
    seen: list[Header] = []

    def counted(data: bytes, header: Header, *args: Any, **options: Any) -> Verdict:
        seen.append(header)
        return check_envelope(data, header, *args, **options)

    monkeypatch.setattr(batch, "check_envelope", counted)
    return seen


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("layout", ["hermitian", "full"])
def test_what_is_valid_is_checked_in_stacks_and_what_is_not_alone(
    dtype: str, layout: str, singles: list[Header]
) -> None:
    """One check for the verdict that the others share, and one for each that is not valid."""
    cplx = dtype.startswith("complex")
    matrices = [(0.9 * density(9, seed, cplx) + 0.1 * np.eye(9) / 9).astype(dtype) for seed in range(50)]
    whole = check_envelopes([of_matrix(each, layout, zstd=i % 5 == 0) for i, each in enumerate(matrices)])
    assert (whole.valid, len(singles), whole.rigour) == (50, 1, "proved")
    matrices[30] = matrices[30] - np.eye(9, dtype=dtype)
    singles.clear()
    found = check_envelopes([of_matrix(each, layout) for each in matrices])
    assert (found.valid, list(found.others), len(singles)) == (49, [30], 2)
    others = [i for i in range(50) if i != 30]
    assert [bits(found.verdict(i)) for i in others] == [bits(whole.verdict(i)) for i in others]
    with pytest.raises(KeyError):
        found.verdict(30)
    with pytest.raises(KeyError):
        found.verdict(50)


def test_more_than_a_stack_and_orders_that_alternate(singles: list[Header]) -> None:
    orders = [40, 41, 128] * 300
    matrices = {n: of_matrix(density(n, n)) for n in set(orders)}
    found = check_envelopes([matrices[n] for n in orders])
    assert (found.valid, len(singles)) == (900, 3)
    assert [found.verdict(i).n for i in range(900)] == orders


def test_few_large_or_otherwise_checked_envelopes_go_alone(singles: list[Header]) -> None:
    for items, options in (
        ([of_matrix(density(5, seed)) for seed in range(4)], {}),
        ([of_matrix(np.eye(512) / 512)] * 6, {}),
        ([of_matrix(density(5, seed)) for seed in range(9)], {"method": "eigen"}),
        ([of_matrix(density(5, seed)) for seed in range(9)], {"spectrum": True}),
    ):
        singles.clear()
        found = check_envelopes(items, **options)
        assert len(singles) == len(items)
        assert_same(found, [alone(item, None, **options) for item in items])
    assert_same(check_envelopes([]), [])


def test_a_portion_of_which_nothing_decodes() -> None:
    good, bad = of_matrix(np.eye(6) / 6, zstd=True), of_matrix(np.eye(6) / 6, zstd=True)
    garbage = bad[0][: bad[1].header_length] + bytes(bad[1].payload_length)
    items = [good] + [(garbage, bad[1])] * 20
    found = check_envelopes(items)
    assert_same(found, [alone(item, None) for item in items])
    assert found.valid == 1


def test_a_payload_that_is_shorter_than_its_header_says_harms_no_other() -> None:
    good = of_matrix(density(6, 1))
    items = [good] * 10 + [(good[0][:-8], good[1])] + [good] * 10
    found = check_envelopes(items)
    assert list(found.others) == [10]
    assert_same(found, [alone(item, None) for item in items])


@pytest.mark.parametrize("layout", ["hermitian", "full"])
def test_a_blas_that_the_theorem_does_not_cover_proves_nothing(
    layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("somactl.core.invariants.is_trusted", lambda n: False)
    items = [of_matrix(density(6, seed), layout) for seed in range(9)]
    found = check_envelopes(items)
    assert (found.valid, found.rigour, found.lowest_lambda_min) == (9, "computed", None)
    assert_same(found, [alone(item, None) for item in items])


@pytest.mark.parametrize(
    "tolerances",
    [Tolerances(hermitian=-1.0), Tolerances(psd=1e-20), Tolerances(trace=0.0), Tolerances(psd=math.nan)],
)
def test_a_stack_proves_nothing_beyond_the_tolerances(tolerances: Tolerances) -> None:
    data, header = of_matrix(np.eye(4) / 4)
    form = Form(4, "float64", "hermitian")
    payload = framing.payload(data, header)
    assert None not in prove([payload] * 3, form, Tolerances())
    assert prove([payload] * 3, form, tolerances) == [None] * 3


def test_every_bound_of_a_stack_is_true() -> None:
    """Put before exact arithmetic, as those of the single check are."""
    edges = Edges(7, Tolerances(psd=1e-8, trace=math.inf))
    rng = np.random.default_rng(7)
    stacked = 0
    for n, cplx in ((1, False), (2, False), (3, True), (5, False), (6, True), (8, False)):
        matrices = [rng.choice([edges.spectral, edges.graded])(n, cplx) for _ in range(60)]
        for layout in ("hermitian", "full"):
            form = Form(n, "complex128" if cplx else "float64", layout)
            items = [of_matrix(matrix, layout) for matrix in matrices]
            proofs = prove([framing.payload(*item) for item in items], form, edges.tolerances)
            for matrix, item, proof in zip(matrices, items, proofs, strict=True):
                if layout == "hermitian":  # what a stack could prove, it proves
                    assert (proof is not None) is (check_envelope(*item, edges.tolerances).route == "packed")
                if proof is not None:
                    assert at_least(matrix, proof.lower)
                    stacked += 1
    assert stacked > 250


def test_where_arithmetic_rounds_otherwise_nothing_is_proved() -> None:
    found = run("""
import threading
import numpy as np
from somactl.core import batch
from somactl.core.batch import check_envelopes
from somactl.core.envelope import encode, verify

data = [encode(np.diag([0.5, 0.25, 0.25]), key=str(i)).data for i in range(40)]
items = [(each, verify(each)) for each in data]

def told():
    found = check_envelopes(items)
    verdicts = [found.verdict(i) for i in range(40)]
    return [found.valid, found.rigour, found.lowest_lambda_min is None, "nearest" in found.blas,
            sorted({v.rigour for v in verdicts}), all(v.lambda_min_lower is None for v in verdicts)]

result = {"before": told()}
for mode in ("up", "down", "zero"):
    rounding(mode)
    result[mode] = told()
rounding("nearest")
prove = batch.prove
def meanwhile(*arguments):
    found = prove(*arguments)
    rounding("up")
    return found
batch.prove = meanwhile
changed = check_envelopes(items)
rounding("nearest")
result["meanwhile"] = sorted({changed.verdict(i).rigour for i in range(1, 40)})
batch.prove = prove
result["after"] = told()
print(json.dumps(result))
""")
    usual = [40, "proved", False, False, ["proved"], False]
    assert found.pop("before") == usual
    assert found.pop("after") == usual
    assert found.pop("meanwhile") == ["computed"]
    assert list(found.values()) == [[40, "computed", True, True, ["computed"], True]] * 3


def test_batches_in_many_threads_find_the_same() -> None:
    items = Edges(3, Tolerances()).call(200) + [of_matrix(density(64, i)) for i in range(40)]
    expected = check_envelopes(items)
    found: list[Batch] = []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        found.extend(check_envelopes(items) for _ in range(3))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    for each in found:
        assert [bits(o) for o in each.others.values()] == [bits(o) for o in expected.others.values()]
        valid = [i for i in range(len(items)) if i not in expected.others]
        assert [bits(each.verdict(i)) for i in valid] == [bits(expected.verdict(i)) for i in valid]


def test_memory_does_not_grow_with_the_batch() -> None:
    def peak(count: int) -> int:
        items = [of_matrix(matrix)] * count
        tracemalloc.start()
        try:
            check_envelopes(items)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    matrix = density(100, 0)  # 40 KB each
    peak(100)
    assert peak(2000) < peak(200) + 2000 * 1000  # what is found of each, and no payload

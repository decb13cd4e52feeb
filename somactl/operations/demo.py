"""A narrated tour of the main job on real input: memory states of handwritten digits."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np

from somactl.core.envelope import deserialize_matrix
from somactl.core.verdict import Tolerances
from somactl.errors import InvariantViolated, SomactlError, VersionConflict
from somactl.operations import undo
from somactl.operations.admission import Policy
from somactl.operations.audit.finish import Demands, finish
from somactl.operations.audit.model import Check, Tally
from somactl.operations.audit.pages import Bounds, pages
from somactl.operations.audit.proofs import Proofs
from somactl.operations.audit.workers import Inline
from somactl.operations.commit import Input, Request, commit
from somactl.report import DemoReport, VerifyReport
from somactl.store.contract import Store

DIGITS = 10
Say = Callable[[str], None]


class DemoFailed(SomactlError):
    """The tour did not see what it promised: a bug, or a broken installation."""


def digit_states(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """One rho per digit: the mean of x x^T over its images as unit vectors x; 64 x 64, rank-deficient."""
    vectors = images.reshape(len(images), -1).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    states = {}
    for digit in range(DIGITS):
        own = vectors[labels == digit]
        rho = own.T @ own
        states[f"digit:{digit}"] = rho / np.trace(rho)
    return states


async def tour(store: Store, dataset: bytes, say: Say) -> DemoReport:
    """Run every step against `store`, telling each through `say`. Raises DemoFailed if one goes wrong."""
    with np.load(io.BytesIO(dataset)) as file:
        states = digit_states(file["images"], file["labels"])
    steps: list[str] = []
    for step in (_commit_together, _read_back, _prove_all, _clamp, _refuse, _conflict, _take_back):
        title = str(step.__doc__).rstrip(".")
        say(f"\n{len(steps) + 1}. {title}")
        await step(store, states, say)
        steps.append(title)
    return DemoReport(store=store.name, namespace=store.namespace, steps=steps)


async def _commit_together(store: Store, states: dict[str, np.ndarray], say: Say) -> None:
    """Ten memory states, one for each handwritten digit, are committed together."""
    report = await commit(store, [_input(k, rho) for k, rho in states.items()], [], Request(), Policy())
    lowest = min(i.verdict.lambda_min_lower or 0.0 for i in report.items if i.verdict)
    stored = sum(item.bytes or 0 for item in report.items)
    say(f"   version {report.version}: all {len(report.items)} keys or none, {report.stores[0].durability}")
    say(f"   each proven before it was written: smallest eigenvalue >= {lowest:.1e}")
    say(f"   {stored} bytes for {64 * 64 * 8 * DIGITS} of numbers: one triangle of each is enough")


async def _read_back(store: Store, states: dict[str, np.ndarray], say: Say) -> None:
    """They are read back in one snapshot, bit for bit."""
    snapshot = await store.read_many(list(states))
    for key, rho in states.items():
        _expect(
            np.array_equal(deserialize_matrix(snapshot.entries[key].data).array, rho),
            f"{key} came back changed",
        )
    say(f"   {len(snapshot.entries)} keys as of version {snapshot.version}; digests and addresses checked")


async def _prove_all(store: Store, states: dict[str, np.ndarray], say: Say) -> None:
    """An audit proves every one of them, straight from the stored bytes."""
    report = VerifyReport(method="certify")
    proofs = Proofs(Inline(store, Check()), Tally(report))
    await proofs.prove(pages(store, Bounds()))
    finish(report, Demands())
    _expect(report.valid == DIGITS and report.code == 0, "the audit did not prove all ten")
    say(f"   {report.valid} valid, {report.rigour}: every eigenvalue >= {report.lowest_lambda_min:.1e}")
    say(f"   worst trace error {report.worst_trace_error:.1e}; factored by {report.blas}")


async def _clamp(store: Store, states: dict[str, np.ndarray], say: Say) -> None:
    """One state becomes slightly negative: within tolerance, so it is clamped, and somactl says how far."""
    before = await store.read("digit:3")
    rho = _with_negative_direction(states["digit:3"], 5e-9)
    report = await commit(store, [_input("digit:3", rho)], [], Request(expected=before.version), Policy())
    (move,) = report.items[0].moves
    say("   its smallest eigenvalue was -5e-09, where -1e-08 is allowed")
    say(f"   stored as version {report.version}: the nearest density matrix, {move.distance:.1e} away")


async def _refuse(store: Store, states: dict[str, np.ndarray], say: Say) -> None:
    """One state becomes far negative: refused, with a witness that can be checked by hand."""
    before = await store.head()
    rho = _with_negative_direction(states["digit:7"], 3e-2)
    try:
        await commit(store, [_input("digit:7", rho)], [], Request(), Policy())
    except InvariantViolated as exc:
        if exc.verdict.witness is None:
            raise DemoFailed("the refusal came without a witness") from None
        x = np.array(exc.verdict.witness.vector)
        say(f"   {exc.verdict.reasons[0]}")
        say(
            f"   with its witness x, numpy finds x.rho.x / x.x = {x @ rho @ x / (x @ x):.4f}: negative indeed"
        )
        say(f"   exit {exc.exit_code}, see RUNBOOKS/{exc.runbook}.md; nothing was written")
    else:
        raise DemoFailed("a far negative matrix was accepted")
    _expect(await store.head() == before, "a refused commit changed the store")


async def _conflict(store: Store, states: dict[str, np.ndarray], say: Say) -> None:
    """A stale writer, who read version 1 and never saw version 2, gets its conflict."""
    update = _input("digit:3", states["digit:3"])
    try:
        await commit(store, [update], [], Request(expected=1), Policy())
    except VersionConflict as exc:
        say(f"   {exc.message}")
        say(f"   exit {exc.exit_code}; nothing was written, the newer state stands")
    else:
        raise DemoFailed("a stale writer was let through")


async def _take_back(store: Store, states: dict[str, np.ndarray], say: Say) -> None:
    """The clamped commit is undone, as a new commit that would refuse to run over later work."""
    (record,) = await store.log(limit=1)
    report = await undo.restore_commit(store, record.commit_id, Request(), Tolerances(), jobs=())
    entry = await store.read("digit:3")
    _expect(
        np.array_equal(deserialize_matrix(entry.data).array, states["digit:3"]),
        "the undo restored another state",
    )
    say(f"   version {report.version} is version 1's state again, content {entry.framed.content}")


def _with_negative_direction(rho: np.ndarray, by: float) -> np.ndarray:
    """rho, moved so that its smallest eigenvalue becomes -by and its trace stays 1."""
    values, vectors = np.linalg.eigh(rho)
    values[0] = -by
    values[-1] += 1.0 - values.sum()
    moved = (vectors * values) @ vectors.T
    return np.asarray((moved + moved.T) / 2.0)


def _input(key: str, rho: np.ndarray) -> Input:
    buffer = io.BytesIO()
    np.save(buffer, rho)
    return Input(key=key, content=buffer.getvalue(), source=f"{key}.npy")


def _expect(true: bool, otherwise: str) -> None:
    if not true:
        raise DemoFailed(otherwise)

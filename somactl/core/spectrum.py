"""Eigenvalues and what is computed from them, and the randomised Lanczos search for a negative one.

Nothing here is a proof by itself: a vector found here may become one through `prove_negative`.
"""

from __future__ import annotations

import numpy as np

from somactl.core.draft import Draft
from somactl.core.hermitian import SLACK, Array, HermitianPart, U
from somactl.core.verdict import Spectrum
from somactl.core.witness import UNDERFLOW, prove_negative

LANCZOS_STEPS = 48


def hermitian_matrix(part: HermitianPart) -> Array:
    """H as a full array, n x n, in float64 or complex128; up to the rounding of its off-diagonal means."""
    full = np.empty((part.n, part.n), part.work.dtype)
    for block, rows in part.rows():
        full[block] = rows
    if part.asymmetry and not part.in_place:
        full = 0.5 * (full + full.conj().T)
    return full


def eigenvalue_error(part: HermitianPart) -> float:
    """How far a computed eigenvalue of H is taken to be off: 4 (n + 8) u ||H||_F, and what forming H cost.

    `eigh` is backward stable: computed eigenvalues are exact ones of H + E with ||E||_2 <= p(n) u ||H||_2,
    which moves each by ||E||_2 at most (Weyl); p is "a modestly growing function of n" (LAPACK Users' Guide,
    3rd ed., section 4.7.1; Higham, section 19.3, proves O(n^1.5) for the reduction to tridiagonal form).
    4 (n + 8) is no proven constant, but eight times the largest error seen against known spectra up to
    n = 512: hence `computed`. The norm, Frobenius's, sees negative eigenvalues as well as positive ones.
    """
    n = part.n
    norm = part.sizes()[0] + n * 2.0**-510  # squares may underflow
    return SLACK * 4.0 * (n + 8) * U * norm + part.charge + UNDERFLOW


def judge_by_eigenvalues(draft: Draft, part: HermitianPart) -> None:
    """Decide PSD by `eigvalsh`: computed, except that a violation may be proved by its eigenvector."""
    draft.route = "eigen"
    eps, doubt = draft.tolerances.psd, eigenvalue_error(part)
    full = hermitian_matrix(part)
    try:
        lowest = float(np.linalg.eigvalsh(full)[0])
        if lowest >= -doubt and 2.0 * doubt <= eps:
            draft.accept("valid", proved=False)
            return
        draft.witness = prove_negative(part, np.linalg.eigh(full)[1][:, 0])
    except np.linalg.LinAlgError:  # overflow on the way
        draft.undecided("the eigenvalues could not be computed")
        return
    proved = draft.witness is not None and draft.witness.value < -eps
    if proved or lowest < -eps - doubt:
        draft.psd_ok = False
        draft.violate("psd", f"psd: lambda_min is {lowest:.3g}, below -{eps:.3g}", proved=proved)
    elif not lowest >= -eps + doubt:
        draft.undecided(f"lambda_min is {lowest:.3g}, within rounding of -{eps:.3g}")
    elif draft.witness is None:
        draft.accept("valid", proved=False)
    else:
        draft.accept("clampable", f"psd: slightly negative, lambda_min is {lowest:.3g}", proved=False)


def judge_by_sample(draft: Draft, part: HermitianPart) -> None:
    """Look for a violation by randomised Lanczos. Finding none proves nothing, so this never accepts."""
    draft.route = "lanczos"
    draft.witness = prove_negative(part, lowest_direction(part))
    eps = draft.tolerances.psd
    if draft.witness is not None and draft.witness.value < -eps:
        draft.psd_ok = False
        draft.violate(
            "psd", f"psd: a witness proves lambda_min <= {draft.witness.value:.3g}, below -{eps:.3g}"
        )
    else:
        draft.undecided("sampling found no violation, which proves nothing")


def spectrum_of_part(part: HermitianPart) -> Spectrum:
    """The computed spectrum of H."""
    return spectrum_of(np.linalg.eigvalsh(hermitian_matrix(part)))


def spectrum_of(eigenvalues: Array) -> Spectrum:
    """Rank, purity and entropy (nats) of a density matrix with these eigenvalues, shape (n,)."""
    values = np.sort(np.asarray(eigenvalues, dtype=np.float64))
    threshold = len(values) * U * float(np.max(np.abs(values), initial=0.0))
    positive = values[values > 0.0]
    return Spectrum(
        eigenvalues=tuple(values.tolist()),
        rank=int(np.count_nonzero(np.abs(values) > threshold)),
        purity=float(np.sum(np.square(values))),
        entropy=max(0.0, -float(np.sum(positive * np.log(positive)))),
    )


def factor_spectrum(factor: Array) -> Spectrum:
    """The spectrum of rho = F F^H, F n x k: the eigenvalues of the smaller of F^H F and F F^H, and zeros."""
    rows, columns = factor.shape
    gram = factor.conj().T @ factor if columns <= rows else factor @ factor.conj().T
    values = np.linalg.eigvalsh(gram) if gram.size else np.zeros(0)
    return spectrum_of(np.concatenate([np.zeros(rows - len(values)), values]))


def lowest_direction(part: HermitianPart) -> Array:
    """A vector near the eigenvector of lambda_min, shape (n,): Lanczos with full reorthogonalisation.

    Starts from a pseudo-random vector that depends on n alone, so that a verdict can be repeated.
    Golub and Van Loan, Matrix Computations, 4th ed., section 10.1.
    """
    steps = min(LANCZOS_STEPS, part.n)
    rng = np.random.default_rng(part.n)
    vector = rng.standard_normal(part.n).astype(part.work.dtype)
    basis = np.zeros((steps, part.n), part.work.dtype)
    main, side = np.zeros(steps), np.zeros(steps)
    done = 0
    for step in range(steps):
        length = float(np.linalg.norm(vector))
        if not (0.0 < length < np.inf):
            break
        if step and length <= part.n * U * max(1e-300, float(np.max(np.abs(main)))):
            break
        side[step] = length
        basis[step] = vector / length
        done = step + 1
        vector = np.concatenate([rows @ basis[step] for _, rows in part.rows()])
        main[step] = float(np.vdot(basis[step], vector).real)
        for _ in range(2):
            vector = vector - basis[:done].T @ (basis[:done].conj() @ vector)
    tridiagonal = np.diag(main[:done]) + np.diag(side[1:done], 1) + np.diag(side[1:done], -1)
    weights = np.linalg.eigh(tridiagonal)[1][:, 0]
    direction: Array = basis[:done].T @ weights
    return direction

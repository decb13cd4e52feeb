"""Every spelling in which the old service left a matrix, made without somactl."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from support.legacy_values import numpy_form as numpy_form


def density(n: int, seed: int = 0, dtype: str = "float64") -> np.ndarray:
    """A density matrix, Hermitian bit for bit, whose smallest eigenvalue is well above zero."""
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((n, 3 * n))
    if dtype.startswith("complex"):
        factor = factor + 1j * rng.standard_normal(factor.shape)
    rho = factor @ factor.conj().T
    rho = (rho + rho.conj().T) / 2
    return (rho / np.trace(rho).real).astype(dtype)


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


def key_orders(form: dict[str, Any]) -> Iterator[bytes]:
    """The object with its keys in each of their orders."""
    for names in itertools.permutations(form):
        yield text({name: form[name] for name in names})


def wrapped(value: bytes, times: int = 1) -> bytes:
    """The text as a JSON string, `times` over."""
    for _ in range(times):
        value = json.dumps(value.decode()).encode()
    return value

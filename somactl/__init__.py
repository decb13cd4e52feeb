"""Keeps density matrices true: atomic commits, proven invariants, honest reports.

The names below are the Python API (docs/PYTHON.md). They load on first use, so that `import somactl` brings
in neither numpy nor a driver: an operator's tool starts all day.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from somactl.api import open_server, open_store, read_matrix
    from somactl.core.envelope import Matrix, deserialize_matrix, serialize_matrix
    from somactl.core.invariants import check
    from somactl.core.verdict import Tolerances, Verdict
    from somactl.legacy.copying import migrate_json_payload_to_matrix
    from somactl.operations.admission import Policy
    from somactl.operations.commit import commit_matrix_update
    from somactl.store.contract import Expect, Receipt, Store

__version__ = "0.1.0"

__all__ = [
    "Expect",
    "Matrix",
    "Policy",
    "Receipt",
    "Store",
    "Tolerances",
    "Verdict",
    "__version__",
    "check",
    "commit_matrix_update",
    "deserialize_matrix",
    "migrate_json_payload_to_matrix",
    "open_server",
    "open_store",
    "read_matrix",
    "serialize_matrix",
]

# Hidden from type checkers, for which a module with __getattr__ has every name there is.
if not TYPE_CHECKING:
    _HOMES = {
        "somactl.api": ("open_server", "open_store", "read_matrix"),
        "somactl.core.envelope": ("Matrix", "deserialize_matrix", "serialize_matrix"),
        "somactl.core.invariants": ("check",),
        "somactl.core.verdict": ("Tolerances", "Verdict"),
        "somactl.operations.admission": ("Policy",),
        "somactl.operations.commit": ("commit_matrix_update",),
        "somactl.legacy.copying": ("migrate_json_payload_to_matrix",),
        "somactl.store.contract": ("Expect", "Receipt", "Store"),
    }

    def __getattr__(name):
        from importlib import import_module

        for home, names in _HOMES.items():
            if name in names:
                value = globals()[name] = getattr(import_module(home), name)
                return value
        raise AttributeError(f"module 'somactl' has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})

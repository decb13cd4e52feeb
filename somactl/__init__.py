"""Keeps density matrices true: atomic commits, proven invariants, honest reports.

The names below are the Python API. They load on first use, so that `import somactl` brings in neither
numpy nor a driver: an operator's tool starts all day.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from somactl.core.envelope import deserialize_matrix, serialize_matrix
    from somactl.operations.commit import commit_matrix_update
    from somactl.operations.migration.one import migrate_json_payload_to_matrix

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "commit_matrix_update",
    "deserialize_matrix",
    "migrate_json_payload_to_matrix",
    "serialize_matrix",
]

_HOME = {
    "serialize_matrix": "somactl.core.envelope",
    "deserialize_matrix": "somactl.core.envelope",
    "commit_matrix_update": "somactl.operations.commit",
    "migrate_json_payload_to_matrix": "somactl.operations.migration.one",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'somactl' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

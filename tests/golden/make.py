"""Writes golden envelopes that do not exist yet. It refuses to touch those that do: they were released.

Run it from the top of the source tree, after adding a case: `python tests/golden/make.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from somactl.core.envelope import encode

HERE = Path(__file__).resolve().parent
MANIFEST = HERE / "manifest.json"

TINY, HUGE = 5e-324, 1.7976931348623157e308


def _hermitian(n: int, dtype: str) -> np.ndarray:
    """Exact in float32: multiples of 1/64, imaginary parts antisymmetric."""
    rows, columns = np.indices((n, n))
    real = (1 + np.minimum(rows, columns) + 3 * np.maximum(rows, columns)) / 64
    if dtype.startswith("float"):
        return real.astype(dtype)
    return (real + 1j * (columns - rows) * (1 + rows + columns) / 64).astype(dtype)


def cases() -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    general = np.array([[1.5, -0.0, TINY], [HUGE, -2.25, 0.1]])
    return {
        "rho_1_float64": (np.array([[1.0]]), {}),
        "rho_2_float64_hermitian": (np.array([[0.75, 0.25], [0.25, 0.25]]), {"timestamp": 1700000000.5}),
        "rho_2_float64_full": (np.array([[0.75, 0.25], [0.25, 0.25]]), {"layout": "full"}),
        "rho_5_float64_hermitian": (_hermitian(5, "float64"), {"namespace": "acme-1"}),
        "rho_6_float32_hermitian": (_hermitian(6, "float32"), {}),
        "rho_4_complex128_hermitian": (_hermitian(4, "complex128"), {"key": "acme:(9.0, 14.0, 43.0):data"}),
        "rho_7_complex64_hermitian": (_hermitian(7, "complex64"), {"key": "ключ \u03c1 鍵"}),
        "rho_3_complex128_full": (_hermitian(3, "complex128"), {"layout": "full"}),
        "rho_16_float64_hermitian_zstd": (_hermitian(16, "float64"), {"compression": "zstd"}),
        "rho_12_complex128_full_zstd": (
            _hermitian(12, "complex128"),
            {"compression": "zstd", "layout": "full"},
        ),
        "matrix_2x3_float64": (general, {"kind": "matrix"}),
        "matrix_3x2_complex128": (
            (general.T + 1j * general.T[::-1]).astype("complex128"),
            {"kind": "matrix"},
        ),
        "sketch_2x4_float32": (np.arange(8.0, dtype="float32").reshape(2, 4), {"kind": "sketch"}),
        "factor_3x2_complex128": (np.array([[0.5, 0.5j], [0.5, 0.0], [-0.5j, 0.0]]), {"layout": "factor"}),
        "factor_4x1_float64": (np.array([[0.5], [0.5], [-0.5], [0.5]]), {"layout": "factor"}),
        "longest_names": (np.array([[1.0]]), {"namespace": "n" * 64, "key": "k" * 1024, "timestamp": -1.0}),
    }


def flat(values: np.ndarray) -> list[str]:
    """Each real number, row by row, as `float.hex` writes it: exact, and with the sign of zero."""
    return [float(x).hex() for x in np.ascontiguousarray(values).reshape(-1).view(values.real.dtype)]


def main() -> int:
    manifest = json.loads(MANIFEST.read_text("utf-8")) if MANIFEST.exists() else {}
    for name, (array, options) in cases().items():
        path = HERE / f"{name}.envelope"
        if path.exists() or name in manifest:
            sys.stdout.write(f"{name}: exists, left alone\n")
            continue
        options = {"key": "golden", "timestamp": 0.0, **options}
        encoded = encode(array, **options)
        header = encoded.header
        path.write_bytes(encoded.data)
        manifest[name] = {
            "namespace": header.namespace,
            "key": header.key,
            "kind": header.kind,
            "dtype": header.dtype,
            "shape": list(header.shape),
            "layout": header.layout,
            "compression": header.compression,
            "timestamp": header.timestamp,
            "content": header.content,
            "envelope": header.envelope,
            "values": flat(array.astype(header.dtype)),
        }
        sys.stdout.write(f"{name}: written\n")
    MANIFEST.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

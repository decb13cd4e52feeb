"""What the old service wrote: its database as it was dumped, and arrays in its numpy form."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np

_DUMP = Path(__file__).parents[1] / "data" / "legacy" / "kv_store.sql"
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def dumped() -> dict[str, bytes]:
    """Key -> value of the COPY block in text format."""
    begin = "COPY public.kv_store (key, value) FROM stdin;\n"
    block = _DUMP.read_text().partition(begin)[2].partition("\n\\.\n")[0]
    rows = (line.split("\t") for line in block.split("\n"))
    return {_copied(key): _copied(value).encode() for key, value in rows}


def _copied(field: str) -> str:
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), field)


def numpy_form(array: np.ndarray, **changes: Any) -> dict[str, Any]:
    """The object for an array; `changes` replace or add fields, or take one out where it is `...`."""
    form = {
        "__np__": True,
        "data": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode(),
        "dtype": array.dtype.name,
        "shape": list(array.shape),
    }
    return {name: value for name, value in (form | changes).items() if value is not ...}

"""A legacy value read a second time, by other means: what finalizing trusts before it removes.

Only the standard library and numpy: `json`, `base64`, `np.array`. Slow, and free of every idea that makes
`core.legacy_json` fast, so that no mistake of one is likely to be one of the other.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from somactl.core.envelope import deserialize_matrix
from somactl.core.framing import MAGIC, TEXT_PREFIX
from somactl.core.json_pointer import parse_pointer

_WRAPPINGS = 3


class SecondReading:
    """One value, parsed once for all the matrices in it.

    What is found has the dtype that envelopes have: integers as float64, float16 as float32, all else as it
    is. Whatever is no matrix raises ValueError, or what `json` and numpy raise.
    """

    def __init__(self, value: bytes) -> None:
        self._value = value
        self._node: Any = None
        self._parsed = False

    def at(self, pointer: str) -> np.ndarray:
        """The matrix there."""
        if not pointer and self._value.startswith(MAGIC[:4]):
            return _decoded(self._value)
        if not pointer and (text := self._value.decode("utf-8-sig").strip()).startswith(TEXT_PREFIX):
            return _decoded(text)
        node = self._parse()
        for name in parse_pointer(pointer):
            node = node[int(name)] if isinstance(node, list) else node[name]
        for _ in range(_WRAPPINGS):
            if not isinstance(node, str):
                break
            node = node.removeprefix("\ufeff").strip()
            if node.startswith(TEXT_PREFIX):
                return _decoded(node)
            node = json.loads(node)
        return _from_object(node) if isinstance(node, dict) else _from_lists(node)

    def _parse(self) -> Any:
        if not self._parsed:
            self._node = json.loads(self._value.decode("utf-8-sig").strip())
            self._parsed = True
        return self._node


def _from_object(node: dict[str, Any]) -> np.ndarray:
    data = base64.b64decode(node["data"], validate=True)
    array = np.frombuffer(data, dtype=np.dtype(node["dtype"])).reshape(node["shape"])
    if array.dtype.kind in "iu":
        return array.astype(np.float64)
    wide = {2: np.float32}.get(array.dtype.itemsize, array.dtype.newbyteorder("="))
    return array.astype(wide)


def _from_lists(node: Any) -> np.ndarray:
    array = np.array(node, dtype=np.float64)
    if array.ndim != 2:
        raise ValueError(f"{array.ndim} dimensions")
    return array


def _decoded(data: bytes | str) -> np.ndarray:
    return deserialize_matrix(data).array

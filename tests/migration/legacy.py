"""What the old service's dumps hold, by their README, and what must become of it: nothing here asks somactl.

Keys come from the text of the Postgres dump, matrices from its JSON by `json`, `base64` and numpy alone.
"""

from __future__ import annotations

import base64
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FOLDER = Path(__file__).parents[1] / "data" / "legacy"
NOTES, METAS, EMBEDDED, LOGGED = 200, 220, 20, 20
SQUARE = {"acme:rho:0": 8, "acme:rho:1": 16, "acme:rho:2": 32, "acme:rho:3": 64, "acme:rho:4": 64}
SQUARE |= {"acme:rho:5": 96, "acme:rho:6": 128, "acme:rho:lowrank": 96, "acme:rho:tinyneg": 0}
LISTS = {"acme:rho:list:0": 4, "acme:rho:list:1": 16, "acme:rho:list:2": 33, "acme:rho:list:3": 64}
BROKEN = {
    "acme:rho:trace": "InvariantViolated, violated",
    "acme:rho:neg": "InvariantViolated, violated",
    "acme:rho:asym": "InvariantViolated, violated",
    "acme:broken:b64": "InvalidJson",
    "acme:broken:ragged": "InvalidJson",
}


class Wanted(NamedTuple):
    """What is to become of one matrix, or of a value without one (pointer "", form "")."""

    outcome: str
    form: str = ""
    reason: str = ""
    kind: str = ""
    dtype: str = ""
    target: str = ""


@cache
def values() -> dict[str, Any]:
    """Key -> value, parsed; the dump has no escapes but JSON's own, which COPY doubles."""
    found = {}
    for line in (FOLDER / "kv_store.sql").read_text().splitlines():
        key, tab, text = line.partition("\t")
        if tab:
            found[key] = json.loads(text.replace("\\\\", "\\"))
    return found


def matrix(node: Any) -> np.ndarray:
    """By the README: the numpy form or nested lists."""
    if isinstance(node, list):
        return np.array(node, dtype=np.float64)
    assert node["__np__"] is True
    return np.frombuffer(base64.b64decode(node["data"]), dtype=node["dtype"]).reshape(node["shape"])


def group(key: str) -> str:
    """The row of the README's table that a key belongs to."""
    if key.startswith("acme:wal:"):
        return "wal"
    if key.startswith("acme:("):
        name = key.rpartition(":")[2]
        return "embedded" if key.endswith(", -1.0, 0.5):data") else name
    return "named"


def whole_values(source: str) -> dict[tuple[str, str], Wanted]:
    """Key and pointer -> what is to become of it where nothing but whole values is looked at."""
    wanted = {}
    for key in values():
        kind = group(key)
        if kind == "meta" and source == "redis":
            wanted[key, ""] = Wanted("not-a-matrix", reason="a Redis hash")
        elif kind != "named":
            wanted[key, ""] = Wanted("not-a-matrix", reason="an object without `__np__`")
    for key in SQUARE:
        wanted[key, ""] = Wanted("migrate", "numpy", "", "rho", "float64", key)
    wanted["acme:rho:f32", ""] = Wanted("migrate", "numpy", "", "rho", "float32", "acme:rho:f32")
    for key in LISTS:
        wanted[key, ""] = Wanted("migrate", "lists", "", "rho", "float64", key)
    wanted["acme:sketch:0", ""] = Wanted("migrate", "numpy", "", "sketch", "float64", "acme:sketch:0")
    for key in ("acme:rho:trace", "acme:rho:neg", "acme:rho:asym"):
        wanted[key, ""] = Wanted("rejected", "numpy", BROKEN[key], "rho", "float64", key)
    wanted["acme:broken:b64", ""] = Wanted("rejected", "numpy", "InvalidJson")
    wanted["acme:broken:ragged", ""] = Wanted("rejected", "lists", "InvalidJson")
    text = "text that is not JSON" if source == "redis" else "text"
    wanted["acme:note:text", ""] = Wanted("not-a-matrix", reason=text)
    return wanted


def everywhere(source: str) -> dict[tuple[str, str], Wanted]:
    """The same where every node is looked at: 20 objects and 20 log entries each have a matrix inside."""
    wanted = whole_values(source)
    for key in values():
        pointer = {"embedded": "/rho", "wal": "/value/rho"}.get(group(key))
        if pointer is not None:
            del wanted[key, ""]
            wanted[key, pointer] = Wanted("migrate", "numpy", "", "rho", "float64", f"{key}#{pointer}")
    return wanted


def at(key: str, pointer: str) -> Any:
    """The node of a value."""
    node = values()[key]
    for name in pointer.split("/")[1:]:
        node = node[name]
    return node

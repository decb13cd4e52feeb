"""Replace nodes of a JSON text and leave every other byte of it as it was.

A migrated node is replaced by a reference, `{"__somactl__": {"key": …, "version": …, "digest": …}}`. To
parse the value and write it again would do, too, and would lose what JSON does not fix: the order of keys,
blanks, the digits of a number. What was not asked for is not touched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

from somactl.core.json_pointer import Span, locate, scan
from somactl.errors import InvalidJson, LimitExceeded

REFERENCE_KEY = "__somactl__"
_MAX_REFERENCE_BYTES = 16384  # a key of 1024 bytes, each escaped, takes less


class Reference(NamedTuple):
    """What stands where a matrix stood: the key, version and content digest under which it is kept."""

    key: str
    version: int
    digest: str

    def encode(self) -> bytes:
        """The reference as JSON, in ASCII."""
        return json.dumps({REFERENCE_KEY: self._asdict()}).encode("ascii")


def read_reference(node: bytes) -> Reference | None:
    """The reference that `node` is, its keys in any order; None for all other bytes."""
    if len(node) > _MAX_REFERENCE_BYTES or b"__somactl__" not in node:
        return None
    depths = [0]
    try:
        scan(node, lambda path, *_: depths.append(len(path)))
        if max(depths) > 2:  # json.loads recurses, and must not see what is much deeper
            return None
        outer = json.loads(node, object_pairs_hook=_distinct)
    except (InvalidJson, LimitExceeded):
        return None
    fields = outer.get(REFERENCE_KEY) if isinstance(outer, dict) and len(outer) == 1 else None
    if not isinstance(fields, dict) or set(fields) != set(Reference._fields):
        return None
    found = Reference(**fields)
    typed = isinstance(found.key, str) and type(found.version) is int and isinstance(found.digest, str)
    return found if typed else None


def node_bytes(value: bytes, pointer: str) -> bytes:
    """The bytes of the node at `pointer`, as they stand in `value`, without the blanks around it.

    Raises InvalidJson where `value` is not JSON, nothing stands at `pointer`, or a key on the way occurs
    twice in its object; LimitExceeded (`json_pointer.scan`), UsageError for a malformed pointer.
    """
    span = _unambiguous(locate(value, [pointer]).get(pointer), pointer)
    return value[span.start : span.end]


def replace_node(value: bytes, pointer: str, replacement: bytes) -> bytes:
    """`value` with the node at `pointer` replaced. Raises as `replace_nodes`."""
    return replace_nodes(value, {pointer: replacement})


def replace_nodes(value: bytes, replacements: Mapping[str, bytes]) -> bytes:
    """`value` with the node at each pointer replaced by the JSON given for it; all else byte for byte.

    Raises as `node_bytes`, and InvalidJson where a replacement is not JSON or one node stands in another.
    """
    for replacement in replacements.values():
        scan(replacement, lambda *_: None)
    found = locate(value, replacements)
    for pointer in replacements:
        _unambiguous(found.get(pointer), pointer)
    places = sorted(found.items(), key=lambda item: item[1].start)
    for (outer, span), (inner, after) in pairwise(places):
        if after.start < span.end:
            raise InvalidJson(f"{inner!r} and {outer!r} cannot both be replaced: one stands in the other")
    parts: list[bytes] = []
    at = 0
    for pointer, span in places:
        parts += value[at : span.start], replacements[pointer]
        at = span.end
    return b"".join([*parts, value[at:]])


def _unambiguous(span: Span | None, pointer: str) -> Span:
    if span is None:
        raise InvalidJson(f"nothing stands at {pointer!r}", hint="the value is not what it was: plan again")
    if span.twice is not None:
        raise ambiguous(pointer, span.twice)
    return span


def ambiguous(pointer: str, twice: str) -> InvalidJson:
    """The error for a pointer on whose way the key `twice` occurs twice in its object."""
    return InvalidJson(
        f"{pointer!r} is ambiguous: the key {twice[:40]!r} occurs twice in its object",
        hint="remove one of the two where the value is written",
    )


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidJson("a key occurs twice")
    return found

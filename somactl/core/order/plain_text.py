"""An order as plain text: one key a line."""

from __future__ import annotations

from typing import Any

from somactl.core.order.found import DefectError, OrderItems

_MARKS = frozenset(["", "#", "\\", "[", "{", '"', "\ufeff"])


def read_text(text: str, found: OrderItems) -> dict[str, Any]:
    # Not splitlines: a key may hold what Unicode calls a line separator.
    for line, key in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if _needs_escape(key):
            try:
                unescaped = _unescaped(key)
            except DefectError as error:
                found.reject(line, error)
                continue
            if unescaped is None:
                continue
            key = unescaped
        found.add(key, None, line)
    return {}


def _needs_escape(key: str) -> bool:
    return key[:1] in _MARKS or key != key.strip()


def _unescaped(row: str) -> str | None:
    """The key of a line that does not simply hold one; None for a comment or a blank line."""
    bare = row.strip(" \t")
    if not bare or bare[0] == "#":
        return None
    if row[0] == "\\":
        if not _needs_escape(row[1:]):
            raise DefectError("escape", "the backslash escapes nothing; a key that begins with one needs two")
        return row[1:]
    if row[0] in '[{"':
        raise DefectError(
            "escape", f"begins with {row[0]}, as JSON does; a key that does needs a backslash before"
        )
    raise DefectError("blank", "begins or ends with white space; if the key does, put a backslash before it")

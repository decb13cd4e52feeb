"""The grammar of namespaces, keys, kinds, commit ids and `--match` patterns."""

from __future__ import annotations

import re
from collections.abc import Sequence

from somactl.errors import InvalidName, UsageError

KINDS = ("rho", "sketch", "matrix")
MAX_KEY_BYTES = 1024
MAX_PATTERN = 4096
"""Characters of a `--match` pattern: each of a key's may have a backslash before it, and stars between."""

_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_COMMIT_ID = re.compile(r"[A-Za-z0-9._:/-]{1,128}\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Unicode's category Cc, which never changes."""
_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")


def validate_namespace(namespace: str) -> str:
    """`[A-Za-z0-9._-]{1,64}`; raises InvalidName."""
    if not _NAMESPACE.match(namespace):
        raise InvalidName(
            f"namespace {namespace!r} is not 1-64 characters of letters, digits, '.', '_' and '-'",
            hint="rename it, or leave `namespace` out to use 'default'",
        )
    return namespace


def validate_key(key: str) -> str:
    """1-1024 bytes of UTF-8 without control characters; never normalised. Raises InvalidName."""
    if key.isascii() and key.isprintable() and 0 < len(key) <= MAX_KEY_BYTES:  # as nearly all are
        return key
    try:
        size = len(key.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidName(f"key {key!r} is not valid UTF-8") from None
    if size == 0:
        raise InvalidName("a key is empty", hint="a key has 1 to 1024 bytes")
    if size > MAX_KEY_BYTES:
        raise InvalidName(f"key {key[:40]!r}... has {size} bytes; at most {MAX_KEY_BYTES} are allowed")
    control = _CONTROL.search(key)
    if control is not None:
        raise InvalidName(f"key {key!r} contains the control character U+{ord(control[0]):04X}")
    return key


def validate_kind(kind: str) -> str:
    if kind not in KINDS:
        raise InvalidName(f"kind {kind!r} is none of {', '.join(KINDS)}")
    return kind


def validate_commit_id(commit_id: str) -> str:
    """`[A-Za-z0-9._:/-]{1,128}`; raises InvalidName."""
    if not _COMMIT_ID.match(commit_id):
        raise InvalidName(
            f"commit id {commit_id!r} is not 1-128 characters of letters, digits and . _ : / -",
            hint="leave `commit_id` out to have one generated",
        )
    return commit_id


def commit_id_time(commit_id: str) -> float | None:
    """Seconds since 1970 inside a UUIDv7 (RFC 9562, 48 bits of milliseconds); None for any other id."""
    if not _UUID7.match(commit_id):
        return None
    return int(commit_id[:8] + commit_id[9:13], 16) / 1000.0


class Pattern:
    """A `--match` pattern: `*` any run of characters, `?` one character, backslash quotes the next.

    Everything else, `[` included, stands for itself. `prefix` is the literal text every matching key
    starts with, so that a store can begin its scan there. Raises UsageError for a pattern of more than
    MAX_PATTERN characters.
    """

    def __init__(self, text: str) -> None:
        if len(text) > MAX_PATTERN:
            raise UsageError(
                f"the pattern has {len(text)} characters; at most {MAX_PATTERN} are read",
                hint=f"a key has at most {MAX_KEY_BYTES} bytes",
            )
        self.text = text
        first, *others = _runs(text)
        known = first.index(None) if None in first else len(first)
        self.prefix = "".join(filter(None, first[:known]))
        expression = _expression(first)
        if others:
            # Between two stars stands a run of known length, which is best taken where it occurs first: that
            # leaves the most for those behind it. So no choice is ever taken back, and hostile patterns take
            # no longer than others. The last run is tied to the end of the key.
            *between, last = others
            expression += "".join(f"(?>.*?{_expression(run)})" for run in between if run)
            expression += f"(?=.{{{len(last)}}}).*+(?<={_expression(last)})"
        self._match = re.compile(expression, re.DOTALL).fullmatch

    def matches(self, key: str) -> bool:
        return self._match(key) is not None


def _runs(text: str) -> list[list[str | None]]:
    """What stands between the stars of a pattern, one more than it has stars: None for each `?`."""
    runs: list[list[str | None]] = [[]]
    characters = iter(text)
    for c in characters:
        if c == "*":
            runs.append([])
        else:
            runs[-1].append(None if c == "?" else next(characters, "\\") if c == "\\" else c)
    return runs


def _expression(run: Sequence[str | None]) -> str:
    return "".join("." if c is None else re.escape(c) for c in run)

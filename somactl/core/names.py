"""The grammar of namespaces, keys, kinds, commit ids and `--match` patterns."""

from __future__ import annotations

import re
from collections.abc import Callable

from somactl.errors import InvalidName

KINDS = ("rho", "sketch", "matrix")
MAX_KEY_BYTES = 1024

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
            hint="rename it, or leave --namespace out to use 'default'",
        )
    return namespace


def validate_key(key: str) -> str:
    """1-1024 bytes of UTF-8 without control characters; never normalised. Raises InvalidName."""
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
            hint="leave --commit-id out to have one generated",
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
    starts with, so that a store can begin its scan there.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        regex: list[str] = []
        literal: list[str] = []
        in_prefix = True
        characters = iter(text)
        for c in characters:
            if c in "*?":
                in_prefix = False
                regex.append(".*" if c == "*" else ".")
                continue
            if c == "\\":
                c = next(characters, "\\")
            regex.append(re.escape(c))
            if in_prefix:
                literal.append(c)
        self.prefix = "".join(literal)
        self.matches: Callable[[str], object] = re.compile("".join(regex) + r"\Z", re.DOTALL).match

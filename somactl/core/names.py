"""The grammar of namespaces, keys, kinds, commit ids and `--match` patterns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

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
    starts with, so that a store can begin its scan there.

    Between two stars stands a run of known length. The first one is tied to the beginning of a key, the last
    one to its end, and each of the others is best taken where it occurs first, which leaves the most for
    those behind it: so no choice is ever taken back, and no character is looked at by two runs. Raises
    UsageError for a pattern of more than MAX_PATTERN characters.
    """

    def __init__(self, text: str) -> None:
        if len(text) > MAX_PATTERN:
            raise UsageError(
                f"the pattern has {len(text)} characters; at most {MAX_PATTERN} are read",
                hint=f"a key has at most {MAX_KEY_BYTES} bytes",
            )
        self.text = text
        self._first, *between = _runs(text)
        self._last = between.pop() if between else None
        self._between = [run for run in between if run.length]
        self.prefix = self._first.literal_start

    def matches(self, key: str) -> bool:
        at, end = self._first.length, len(key)
        if self._last is None:
            return at == end and self._first.stands_at(key, 0)
        end -= self._last.length
        if at > end or not self._first.stands_at(key, 0) or not self._last.stands_at(key, end):
            return False
        for run in self._between:
            at = run.end_in(key, at, end)
            if at < 0:
                return False
        return True


class _Run:
    """What stands between two stars: characters, and None for each `?`."""

    def __init__(self, characters: Sequence[str | None]) -> None:
        self.length = len(characters)
        known = self.length if None not in characters else characters.index(None)
        self.literal_start = "".join(c for c in characters[:known] if c is not None)
        self._characters = characters
        self._is_literal = known == self.length

    def stands_at(self, key: str, at: int) -> bool:
        if self._is_literal:
            return key.startswith(self.literal_start, at)
        part = key[at : at + self.length]
        return len(part) == self.length and all(
            wanted is None or wanted == c for wanted, c in zip(self._characters, part, strict=True)
        )

    def end_in(self, key: str, at: int, end: int) -> int:
        """Where the first occurrence in key[at:end] ends; -1 where there is none."""
        if self._is_literal:
            found = key.find(self.literal_start, at, end)
            return found + self.length if found >= 0 else -1
        # Shift-And (Baeza-Yates and Gonnet 1992): bit i says that the last i + 1 characters are the first of
        # the run. One step a character, whatever the run consists of.
        state, whole = 0, 1 << (self.length - 1)
        for i in range(at, end):
            state = (state << 1 | 1) & self._masks.get(key[i], self._mask_of_any)
            if state & whole:
                return i + 1
        return -1

    @cached_property
    def _mask_of_any(self) -> int:
        return sum(1 << i for i, wanted in enumerate(self._characters) if wanted is None)

    @cached_property
    def _masks(self) -> dict[str, int]:
        masks: dict[str, int] = {}
        for i, wanted in enumerate(self._characters):
            if wanted is not None:
                masks[wanted] = masks.get(wanted, self._mask_of_any) | 1 << i
        return masks


def _runs(text: str) -> list[_Run]:
    """The runs of a pattern, one more than it has stars."""
    runs: list[list[str | None]] = [[]]
    characters = iter(text)
    for c in characters:
        if c == "*":
            runs.append([])
        else:
            runs[-1].append(None if c == "?" else next(characters, "\\") if c == "\\" else c)
    return [_Run(run) for run in runs]

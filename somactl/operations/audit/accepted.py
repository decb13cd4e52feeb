"""Findings that an operator has accepted until a day: `--accept FILE`, strictly read.

::

    version: 1
    accepted:
      - key: "acme:(9.0, 14.0, 43.0):data"
        digest: 4f0c7a52b19d3e8860f1c2ab94d75e36    # of the content that was judged
        owner: ana@example.org
        reason: known since the import of May, to be re-derived
        expires: 2027-01-31                         # the end of that day in UTC; or 2027-01-31T12:00:00Z
        outcome: violated                           # optional: this outcome alone

An acceptance is about one value and a finding in it. Another value under the key is a finding again, and
so is this one once the entry has expired. What could not be checked can not be accepted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Container, Iterable
from typing import Final, TypeVar

import msgspec

from somactl.core.names import validate_key
from somactl.core.rfc3339 import from_rfc3339
from somactl.core.strict_yaml import Listing, Mapping, Node, Scalar, YamlError, parse_yaml
from somactl.errors import ConfigurationError, InvalidName
from somactl.report import OUTCOME_CODES
from somactl.report.accepting import Acceptance, State
from somactl.suggestion import again

MAX_BYTES: Final = 1 << 20
"""Some 5,000 entries. A list that long is no list of exceptions any more."""
MAX_TEXT: Final = 1000
ACCEPTABLE: Final = tuple(outcome for outcome, code in OUTCOME_CODES.items() if code == 3)
"""The outcomes that are findings. The others say that something was not checked."""

T = TypeVar("T")
_REQUIRED = ("key", "digest", "owner", "reason", "expires")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_DIGEST = re.compile(r"[0-9a-f]{32}\Z")
_DAY_SECONDS = 86_400.0


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted finding. expires: seconds since 1970 from which it is none any more; line: from 1."""

    key: str
    digest: str
    owner: str
    reason: str
    until: str
    expires: float
    outcome: str | None
    line: int


class Accepted:
    """The entries of a file, in its order. `digest` is the SHA-256 (hex) of the file they stand in."""

    def __init__(self, entries: Iterable[Entry], name: str, digest: str) -> None:
        self.entries = tuple(entries)
        self.name = name
        self.digest = digest
        self._of_key: dict[str, list[Entry]] = {}
        for entry in self.entries:
            self._of_key.setdefault(entry.key, []).append(entry)

    def __contains__(self, key: str) -> bool:
        return key in self._of_key

    def judge(self, key: str, digest: str | None, outcome: str, now: float) -> Acceptance | None:
        """What the file says of a finding at `now` (seconds since 1970 by the store's clock).

        None where it says nothing, and for an outcome that can not be accepted. `Acceptance.holds` tells
        whether the finding is accepted; else its state tells why it is one again. A value whose digest is
        not known (None) counts as changed: it is not shown to be the one that was judged.
        """
        entries = self._of_key.get(key)
        if not entries or outcome not in ACCEPTABLE:
            return None
        same = [entry for entry in entries if entry.digest == digest]
        entry = max(same or entries, key=lambda entry: entry.expires)
        state: State = "accepted"
        if not same:
            state = "changed"
        elif entry.outcome not in (None, outcome):
            state = "other"
        elif now >= entry.expires:
            state = "expired"
        return Acceptance(
            state=state,
            owner=entry.owner,
            reason=entry.reason,
            until=entry.until,
            expires=entry.expires,
            digest=entry.digest,
            outcome=entry.outcome,
        )

    def unused(
        self, found: Iterable[tuple[str, str | None]], looked_at: Container[str] | None = None
    ) -> list[Entry]:
        """The entries that no finding needs, so that they can be deleted from the file.

        found: key and digest of every finding; looked_at: the keys that were checked, None for all there
        are. An entry is needed by a finding of its key, unless another entry has that finding's digest.
        """
        digests: dict[str, set[str | None]] = {}
        for key, digest in found:
            digests.setdefault(key, set()).add(digest)
        return [
            entry
            for entry in self.entries
            if (looked_at is None or entry.key in looked_at) and not self._needs(entry, digests)
        ]

    def _needs(self, entry: Entry, digests: dict[str, set[str | None]]) -> bool:
        found = digests.get(entry.key, set())
        others = {other.digest for other in self._of_key[entry.key] if other is not entry}
        return bool(found - others)


def parse_accepted(text: str | bytes, name: str) -> Accepted:
    """The entries of the file `name`, whose content is `text`.

    Raises ConfigurationError for the first thing that is not as the module says, naming file, line and
    field, and for more than MAX_BYTES.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    what = f"accepted findings {name if name.isprintable() else repr(name)}"
    if len(data) > MAX_BYTES:
        raise _refusal(f"{what} are larger than {MAX_BYTES >> 10} KiB", "mend what is accepted for so long")
    try:
        root = parse_yaml(data.decode(), deepest=4, most=MAX_BYTES // 16)
        entries = _entries(root)
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise _refusal(f"{what}, line {line}: this is no UTF-8 text", "save it as UTF-8", line=line) from None
    except YamlError as exc:
        place = f"{what}, line {exc.line}" if exc.line else what
        field = f"`{exc.field}`: " if exc.field and exc.problem != "missing" else ""
        raise _refusal(f"{place}: {field}{exc}", exc.hint, line=exc.line, field=exc.field) from None
    return Accepted(entries, name, hashlib.sha256(data).hexdigest())


def _refusal(message: str, hint: str | None, **facts: int | str | None) -> ConfigurationError:
    return ConfigurationError(message, hint=hint, next=again(), **{k: v for k, v in facts.items() if v})


def _wrong(node: Node, field: str | None, message: str, hint: str | None = None) -> YamlError:
    return YamlError(message, "value", node.line, field=field, hint=hint)


def _entries(root: Node | None) -> list[Entry]:
    if not isinstance(root, Mapping):
        line = root.line if root else 1
        raise YamlError("this is no mapping", "value", line, hint="write `version: 1` and `accepted:`")
    root.refuse_other_fields(("version", "accepted"))
    version, listed = root.fields["version"], root.fields["accepted"]
    if not isinstance(version, Scalar) or version.quoted or version.text != "1":
        raise _wrong(version, "version", "this somactl reads version 1 alone", "write `version: 1`")
    if not isinstance(listed, Listing):
        raise _wrong(listed, "accepted", "this is no list", "write `accepted: []` where there is nothing")
    entries = [_entry(node) for node in listed.items]
    _refuse_duplicates(entries)
    return entries


def _refuse_duplicates(entries: list[Entry]) -> None:
    lines: dict[tuple[str, str], int] = {}
    for entry in entries:
        value = entry.key, entry.digest
        if value in lines:
            message = f"an entry for this key and digest stands in line {lines[value]} already"
            raise YamlError(message, "twice", entry.line, field="key", hint="keep one of them")
        lines[value] = entry.line


def _entry(node: Node) -> Entry:
    if not isinstance(node, Mapping):
        raise _wrong(node, "accepted", "an entry is no mapping", f"give it {', '.join(_REQUIRED)}")
    node.refuse_other_fields(_REQUIRED, ("outcome",))
    key, digest = _read(node, "key", _key), _read(node, "digest", _digest)
    owner, reason = _read(node, "owner", _one_line), _read(node, "reason", _one_line)
    until, expires = _read(node, "expires", _moment)
    return Entry(
        key=key,
        digest=digest,
        owner=owner,
        reason=reason,
        until=until,
        expires=expires,
        outcome=_read(node, "outcome", _outcome) if "outcome" in node.fields else None,
        line=node.line,
    )


def _read(entry: Mapping, field: str, reader: Callable[[str], T]) -> T:
    node = entry.fields[field]
    try:
        return reader(_text(node, field))
    except ValueError as exc:
        raise _wrong(node, field, str(exc)) from None


def _text(node: Node, field: str) -> str:
    if not isinstance(node, Scalar):
        raise _wrong(node, field, "this is no text")
    if not node.is_text:
        what = "null, true or false to YAML" if node.text else "nothing"
        raise _wrong(node, field, f"this is {what}", "write a text, in quotes where it is such a word")
    return node.text


def _key(text: str) -> str:
    try:
        return validate_key(text)
    except InvalidName as exc:
        raise ValueError(exc.message) from None


def _digest(text: str) -> str:
    if not _DIGEST.match(text):
        raise ValueError("this is no content digest: 32 digits of 0-9 and a-f")
    return text


def _one_line(text: str) -> str:
    """Words, however they were folded into lines."""
    line = " ".join(text.split())
    if not line:
        raise ValueError("this is empty")
    if not line.isprintable():
        raise ValueError("this has characters that cannot be printed")
    if len(line) > MAX_TEXT:
        raise ValueError(f"this has more than {MAX_TEXT} characters")
    return line


def _moment(text: str) -> tuple[str, float]:
    """The text, and the seconds since 1970 of that RFC 3339 time or of the end of that day in UTC."""
    is_day = _DAY.match(text) is not None
    seconds = from_rfc3339(f"{text}T00:00:00Z" if is_day else text)
    if seconds is None:
        raise ValueError("this is neither a day such as 2027-01-31 nor a time such as 2027-01-31T12:00:00Z")
    return text, seconds + _DAY_SECONDS if is_day else seconds


def _outcome(text: str) -> str:
    if text not in ACCEPTABLE:
        raise ValueError(f"this is none of {', '.join(ACCEPTABLE)}")
    return text

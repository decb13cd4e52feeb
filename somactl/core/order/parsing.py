"""The orders in which the control plane has keys pruned, strictly read. `docs/PRUNE_ORDER.md` is the norm.

Four forms mean the same: plain text, a JSON list, NDJSON, and a `prune.order` message. The first character
that is no white space tells them apart. An order deletes data, so that nothing is guessed, mended or half
accepted: every defect is named by its place, and one is enough to refuse the whole.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from somactl.core.order.items import (
    SPLIT_HINT,
    DefectError,
    Form,
    Item,
    OrderItems,
    past_space,
    place_of,
)
from somactl.core.order.json_forms import FIELDS, read_list, read_message, read_ndjson
from somactl.errors import InputRejected, LimitExceeded

MAX_TEXT_BYTES: Final = 256 << 20
MAX_LINES: Final = 4_000_000
"""Of plain text and NDJSON, comments and blank lines included."""

_ITEM_FIELD_FIRST = re.compile(r'\{[ \t\r\n]*"(?:key|version)"')


class Order(msgspec.Struct, frozen=True):
    """A whole order, in the sequence in which it was given. Only a message has the fields after `digest`.

    `digest` (hex) covers keys, versions and the message's fields: it is the same for the same content in
    another form, white space or spelling of its times. Times are seconds since 1970.
    """

    form: Form
    items: tuple[Item, ...]
    digest: str
    order_id: str | None = None
    issued_at: float | None = None
    expires_at: float | None = None
    issuer: str | None = None
    sequence: int | None = None
    namespace: str | None = None

    def place(self, index: int) -> str:
        """Where `items[index]` stands, as a person would look for it: `line 7`, or `item 5 (line 7)`."""
        return place_of(self.form, self.items[index].line, index + 1)


def parse_order(data: bytes) -> Order:
    """The order in `data`, in whichever of the four forms.

    Raises LimitExceeded for more than MAX_TEXT_BYTES, MAX_LINES or MAX_ITEMS, before the rest is looked at;
    InvalidName where all that is wrong are keys outside their grammar; InputRejected for everything else.
    `facts` has `defect_count` and the first MAX_DEFECTS `defects`, each with `line`, `defect` and `message`,
    and with `item` (from 1) where the form is a JSON list or a message.
    """
    if len(data) > MAX_TEXT_BYTES:
        raise LimitExceeded(
            f"the order has {len(data)} bytes; at most {MAX_TEXT_BYTES} are read", hint=SPLIT_HINT
        )
    text = _decoded(data)
    form = _form(text)
    if form in ("text", "ndjson") and text.count("\n") > MAX_LINES:
        raise LimitExceeded(f"the order has more than {MAX_LINES} lines", hint=SPLIT_HINT)
    found = OrderItems(form)
    fields = _READERS[form](text, found)
    found.refuse_defects()
    if not found.items:
        raise InputRejected(
            "the order is empty: it names no key", hint="check what was meant to write it; nothing was pruned"
        )
    return Order(form, tuple(found.items), content_digest(found.items, **fields), **fields)


def content_digest(items: Sequence[Item], **fields: Any) -> str:
    """What `Order.digest` is. Keys hold no control characters, so that tab and line feed can part them."""
    head = json.dumps([fields.get(name) for name in FIELDS], ensure_ascii=False, separators=(",", ":"))
    digest = hashlib.sha256(f"somactl prune order 1\n{head}".encode())
    for start in range(0, len(items), 100_000):
        part = items[start : start + 100_000]
        lines = [f"\n{i.key}" if i.version is None else f"\n{i.key}\t{i.version}" for i in part]
        digest.update("".join(lines).encode())
    return digest.hexdigest()


def _decoded(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputRejected("the order is UTF-16, not UTF-8", hint="save it as UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        found = OrderItems("text")  # the error knows the first place; the lines know all of them
    for line, row in enumerate(io.BytesIO(data), 1):
        try:
            row.decode("utf-8")
        except UnicodeDecodeError as error:
            found.note(line, "encoding", f"byte {error.start + 1} (0x{row[error.start]:02x}) is no UTF-8")
    found.refuse_defects()
    raise AssertionError("text that is no UTF-8 has a line that is none")


def _form(text: str) -> Form:
    """Told by the first character, and an item's object from a message by the name of its first field."""
    start = past_space(text, 0)
    first = text[start : start + 1]
    if first == "{":
        return "ndjson" if _ITEM_FIELD_FIRST.match(text, start) else "message"
    forms: dict[str, Form] = {"[": "list", '"': "ndjson"}
    return forms.get(first, "text")


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


_READERS: dict[Form, Callable[[str, OrderItems], dict[str, Any]]] = {
    "text": read_text,
    "list": read_list,
    "ndjson": read_ndjson,
    "message": read_message,
}

"""An order as a `prune.order` message."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from somactl.core.names import validate_namespace
from somactl.core.order.found import BrokenError, DefectError, OrderItems, shortened
from somactl.core.order.json_items import read_items, string, whole, wrong_field
from somactl.core.order.json_reader import Reader
from somactl.errors import InvalidName

MAX_TIME: Final = 253_402_300_799
"""The last second of the year 9999."""

_ORDER_ID = re.compile(r"[A-Za-z0-9._:-]{1,120}\Z")
_ISSUER = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,256}\Z")
_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9])(\.[0-9]{1,9})?"
    r"(Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])\Z"
)


def validate_order_id(order_id: str) -> str:
    """`[A-Za-z0-9._:-]{1,120}`: a commit id that leaves room for `/` and the number of a batch.

    Raises InvalidName.
    """
    if not _ORDER_ID.match(order_id):
        raise InvalidName(
            f"order id {shortened(repr(order_id))} is not 1-120 characters of letters, digits and . _ : -",
            hint="choose another id; the slash is kept for the numbers of batches",
        )
    return order_id


def read_message(text: str, found: OrderItems) -> dict[str, Any]:
    reader = Reader(text)
    fields: dict[str, Any] = {}
    seen: set[str] = set()
    try:
        for name in reader.members():
            _read_field(reader, found, name, seen, fields)
            seen.add(name)
        reader.end()
    except BrokenError as error:
        found.note(reader.line, error.defect, str(error))
        return fields
    missing = [name for name in (*FIELDS, "keys") if name not in seen]
    if missing:
        found.note(reader.line, "field", f"the message lacks {', '.join(missing)}")
    issued, expires = fields.get("issued_at"), fields.get("expires_at")
    if issued is not None and expires is not None and expires <= issued:
        found.note(reader.line, "time", "the order expires before it was issued, or at that moment")
    return fields


def _read_field(reader: Reader, found: OrderItems, name: str, seen: set[str], fields: dict[str, Any]) -> None:
    reader.peek()
    line = reader.line
    if name == "keys" and name not in seen:
        read_items(reader, found)
        return
    value = reader.scalar()
    try:
        if name in seen or name not in FIELDS:
            raise wrong_field(name, name in seen)
        fields[name] = FIELDS[name](value, name)
    except DefectError as error:
        found.note(line, error.defect, str(error))
    except InvalidName as error:
        found.note(line, "name", error.message)


def _issuer(value: object, name: str) -> str:
    if not _ISSUER.match(string(value, name)):
        raise DefectError("name", f"`{name}` is not 1-256 characters without control characters")
    return str(value)


def _time(value: object, name: str) -> float:
    seconds = _from_rfc3339(value) if isinstance(value, str) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= MAX_TIME:
        what = f"`{name}` is neither seconds since 1970 nor RFC 3339 such as 2026-01-31T12:00:00Z"
        raise DefectError("time", what)
    return float(seconds) + 0.0  # there is no -0.0


def _from_rfc3339(text: str) -> float | None:
    match = _RFC3339.match(text)
    if match is None:
        return None
    try:
        whole = datetime.fromisoformat(match[1] + match[3]).timestamp()
    except ValueError:  # a day that its month does not have
        return None
    return float(f"{whole:.0f}{match[2] or ''}")


FIELDS: dict[str, Callable[[object, str], object]] = {
    "order_id": lambda value, name: validate_order_id(string(value, name)),
    "issued_at": _time,
    "expires_at": _time,
    "issuer": _issuer,
    "sequence": lambda value, name: whole(value, name, 0),
    "namespace": lambda value, name: validate_namespace(string(value, name)),
}

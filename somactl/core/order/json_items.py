"""An order as a JSON list or as NDJSON, and the list of keys within a message."""

from __future__ import annotations

import json
from typing import Any

from somactl.core.order.found import BrokenError, DefectError, OrderItems, shortened
from somactl.core.order.json_reader import Reader

MAX_INTEGER = 2**63 - 1


def read_list(text: str, found: OrderItems) -> dict[str, Any]:
    reader = Reader(text)
    try:
        read_items(reader, found)
        reader.end()
    except BrokenError as error:
        found.note(reader.line, error.defect, str(error))
    return {}


def read_ndjson(text: str, found: OrderItems) -> dict[str, Any]:
    for line, row in enumerate(text.split("\n"), 1):
        reader = Reader(row, line)
        first = reader.peek()
        if not first:
            continue
        try:
            if first not in '{"':
                raise DefectError("type", "no JSON string or object; plain text would begin with a # line")
            _read_item(reader, found, line)
            reader.end()
        except (DefectError, BrokenError) as error:
            found.reject(line, error)
    return {}


def read_items(reader: Reader, found: OrderItems) -> None:
    for _ in reader.elements():
        reader.peek()
        _read_item(reader, found, reader.line)


def _read_item(reader: Reader, found: OrderItems, line: int) -> None:
    try:
        key, version = reader.usual_item() or _item(reader)
    except DefectError as error:
        found.reject(line, error)
    else:
        found.add(key, version, line)


def _item(reader: Reader) -> tuple[str, int | None]:
    if reader.peek() != "{":
        value = reader.scalar()
        if isinstance(value, str):
            return value, None
        raise DefectError("type", f"{kind_of(value)} is neither a key nor {{key, version}}")
    fields: dict[str, object] = {}
    wrong: DefectError | None = None
    for name in reader.members():
        if name in fields or name not in ("key", "version"):
            wrong = wrong or wrong_field(name, name in fields)
        fields[name] = reader.scalar()
    if wrong is not None:
        raise wrong
    for name in ("key", "version"):
        if name not in fields:
            raise DefectError("field", f"`{name}` is missing; a key without a version is a plain string")
    return string(fields["key"], "key"), whole(fields["version"], "version", 1)


def wrong_field(name: str, twice: bool) -> DefectError:
    what = "stands twice" if twice else "is unknown"
    return DefectError("field", f"the field {shortened(repr(name))} {what}")


def kind_of(value: object) -> str:
    return (
        "a string"
        if isinstance(value, str)
        else "a number"
        if type(value) in (int, float)
        else json.dumps(value)
    )


def string(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise DefectError("type", f"`{name}` is {kind_of(value)}, not a string")
    return value


def whole(value: object, name: str, least: int) -> int:
    if type(value) is not int or not least <= value <= MAX_INTEGER:
        raise DefectError("type", f"`{name}` is not a whole number from {least} to 2^63 - 1")
    return value

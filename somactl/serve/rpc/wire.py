"""Reports as messages of the protocol: fields have the same names, and None is a field that is not set."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

Filled = TypeVar("Filled")


def fill(message: Filled, value: msgspec.Struct) -> Filled:
    """Set every field of `message` from the one of `value` that has its name; the message."""
    given: Any = message
    given.SetInParent()  # it is there, though all of it be zero
    for field in given.DESCRIPTOR.fields:
        _set(given, field.name, getattr(value, field.name))
    return message


def _set(message: Any, name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, msgspec.Struct):
        fill(getattr(message, name), value)
    elif isinstance(value, list):
        _extend(getattr(message, name), value)
    elif isinstance(value, dict):
        _update(getattr(message, name), value)
    else:
        setattr(message, name, value)


def _extend(field: Any, values: list[Any]) -> None:
    for value in values:
        if isinstance(value, msgspec.Struct):
            fill(field.add(), value)
        else:
            field.append(value)


def _update(field: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, msgspec.Struct):
            fill(field[name], value)
        else:
            field[name] = value

"""Reports and their parts as JSON bytes."""

from __future__ import annotations

from typing import Any

import msgspec


def to_json(value: Any) -> bytes:
    """The value as JSON, exactly; but bytes of a file name that are no UTF-8 become `\\udcff`."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_in_unicode(msgspec.to_builtins(value)))


def _in_unicode(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_in_unicode(name): _in_unicode(part) for name, part in value.items()}
    return [_in_unicode(part) for part in value] if isinstance(value, list | tuple) else value

"""The written form of what a job was asked for: versioned, canonical, and what the job's identity is made of.

A request on the wire is a flat msgspec struct of JSON values; its fields *are* the format, not those of
whatever dataclasses a job works with::

    class PruneWire(Wire, frozen=True, kw_only=True):
        goal: str = "all"
        amount: int = 0

    written = to_wire(asked)                     # {"format": 1, "goal": "keep", "amount": 5}
    asked = from_wire(written, PruneWire)        # refuses what a newer somactl wrote
    job_id = identity("prune", written, order.digest)

Fields at their defaults are left out. So a new optional field changes no identity and no saved request, as
long as its default means what was done before; and a somactl that does not know the field refuses a request
that has it. Whatever else changes the meaning of a request raises `FORMAT`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import msgspec

from somactl.errors import InputRejected, SchemaMismatch


class Wire(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all written requests."""

    FORMAT: ClassVar[int] = 1


W = TypeVar("W", bound=Wire)


def to_wire(request: Wire) -> dict[str, Any]:
    """The request as JSON values, the same for the same: with its format, without defaults."""
    kind = type(request)
    # Through the declared types: a rate of 5 and one of 5.0 are the same request.
    values = msgspec.to_builtins(msgspec.convert(msgspec.to_builtins(request), kind))
    defaults = {each.name: _default(each) for each in msgspec.structs.fields(kind) if not each.required}
    written = {name: v for name, v in values.items() if name not in defaults or v != defaults[name]}
    return {"format": kind.FORMAT, **written}


def _default(field: msgspec.structs.FieldInfo) -> Any:
    made = field.default_factory is not msgspec.NODEFAULT
    return msgspec.to_builtins(field.default_factory() if made else field.default)


def from_wire(written: Mapping[str, Any], kind: type[W]) -> W:
    """The reverse of `to_wire`.

    Raises SchemaMismatch for a newer format, or a field that this somactl does not know; InputRejected for
    anything else that is no request.
    """
    given = dict(written)
    number = given.pop("format", None)
    if not isinstance(number, int) or isinstance(number, bool):
        raise InputRejected("the request has no format number", hint=_AGAIN)
    unknown = sorted(given.keys() - {each.name for each in msgspec.structs.fields(kind)})
    if number > kind.FORMAT or unknown:
        what = f"format {number}" if number > kind.FORMAT else f"the field {unknown[0]!r}"
        raise SchemaMismatch(
            f"the request was written by a newer somactl: {what} is unknown here",
            hint="use that one, or make the request again with this one",
        )
    try:
        return msgspec.convert(given, kind, strict=True)
    except msgspec.ValidationError as exc:
        raise InputRejected(f"the request is not told as this somactl tells it: {exc}", hint=_AGAIN) from None


_AGAIN = "make it again with this somactl"


def identity(job: str, written: Mapping[str, Any], *of: str) -> str:
    """The SHA-256 (hex) of a request's written form and of what it is about: a source, an order's digest."""
    text = msgspec.json.encode([f"somactl {job}", written, *of], order="sorted")
    return hashlib.sha256(text).hexdigest()

"""What the stores with SQL share: statements kept in files, and rows as values of the contract."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import msgspec

from somactl.errors import StoreDamaged
from somactl.store.contract import Head, Retention, Revision, Stat
from somactl.store.reading import recoverable_until

_MARK = "-- name: "


class Row(Protocol):
    """A row of either driver: its columns by their names."""

    def __getitem__(self, column: str, /) -> Any: ...


def load(path: Path) -> dict[str, str]:
    """Name -> statement, in the file's order; a statement stands below a line `-- name: NAME`.

    Comments above a name belong to no statement. Raises ValueError for a name that stands twice: the file is
    part of somactl, so that is a bug.
    """
    statements: dict[str, str] = {}
    for block in path.read_text(encoding="utf-8").split("\n" + _MARK)[1:]:
        name, _, rest = block.partition("\n")
        if name in statements:
            raise ValueError(f"{path.name} defines {name} twice")
        lines = (line for line in rest.splitlines() if not line.startswith("--"))
        statements[name.strip()] = "\n".join(lines).strip().rstrip(";")
    return statements


def retention(row: Row) -> Retention:
    return Retention(row["keep_versions"], row["keep_seconds"], row["keep_record_seconds"])


def head(row: Row) -> Head:
    return Head(row["name"], row["incarnation"], row["version"], row["created_at"], retention(row))


def stat(row: Sequence[Any], kept_seconds: float | None = None) -> Stat:
    """A live value; or a tombstone, where it is told how long the namespace keeps one without a grace.

    row  columns in the order of Stat's fields, up to `layout`, then for a tombstone when its own grace ends
    """
    key, version, commit_id, at, size, content, kind, dtype, shape, layout, *grace = row
    if kept_seconds is None:
        return Stat(key, version, commit_id, at, size, content, kind, dtype, _shape(shape), layout)
    until = recoverable_until(at, grace[0], kept_seconds)
    described = (size or 0, content or "", kind or "", dtype or "", _shape(shape or ""), layout or "")
    return Stat(key, version, commit_id, at, *described, True, until)


@lru_cache(maxsize=1024)
def _shape(text: str) -> tuple[int, ...]:
    """Remembered: the values of a namespace have few shapes, and a listing decodes one for each."""
    return tuple(map(int, text.split(","))) if text else ()


def revision(row: Row) -> Revision:
    return Revision(
        key=row["key"],
        version=row["version"],
        commit_id=row["commit_id"],
        committed_at=row["committed_at"],
        size=row["size"],
        content=row["content"],
        kind=row["kind"],
        verdict=loads(row["verdict"]),
        compacted=bool(row["compacted"]),
    )


def loads(text: str | None) -> dict[str, Any] | None:
    """The JSON object that was written; raises StoreDamaged."""
    if text is None:
        return None
    try:
        value: dict[str, Any] = _decoded(text)
    except (ValueError, RecursionError) as exc:
        raise StoreDamaged(f"a verdict or commit record is not the JSON that was written ({exc})") from exc
    return value


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)  # five times as fast; an audit decodes a verdict for each value
    except msgspec.DecodeError:
        return json.loads(text)  # which takes half a surrogate pair too, as `json.dumps` writes it

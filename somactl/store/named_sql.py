"""SQL kept in files, each statement below a line `-- name: NAME`."""

from __future__ import annotations

from pathlib import Path

_MARK = "-- name: "


def load(path: Path) -> dict[str, str]:
    """Name -> statement, in the file's order. Comments above a name belong to no statement.

    Raises ValueError for a name that stands twice: the file is part of somactl, so that is a bug.
    """
    statements: dict[str, str] = {}
    for block in path.read_text(encoding="utf-8").split("\n" + _MARK)[1:]:
        name, _, rest = block.partition("\n")
        if name in statements:
            raise ValueError(f"{path.name} defines {name} twice")
        lines = (line for line in rest.splitlines() if not line.startswith("--"))
        statements[name.strip()] = "\n".join(lines).strip().rstrip(";")
    return statements

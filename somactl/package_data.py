"""Where somactl finds the files that are not Python: `sql/`, `lua/`, `schemas/`, `RUNBOOKS/`, `docs/`.

In an installed wheel they lie inside the package. In a source tree, and so in an editable install, they
lie beside it, where people look for them. One lookup serves both, and it never guesses: a file that a
release needs and does not have is a broken installation, hence a plain FileNotFoundError.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def data_file(*parts: str) -> Path:
    """The file or folder `parts`, such as `data_file("sql", "sqlite", "0001_init.sql")`.

    Looks in the package first, then beside it. Raises FileNotFoundError.
    """
    for root in (_PACKAGE, _PACKAGE.parent):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise FileNotFoundError(f"somactl's own file {'/'.join(parts)} is missing: reinstall somactl")

"""Stores of installed packages, found by the scheme of their URLs among the entry points `somactl.stores`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "somactl.stores"


@cache
def entry_points() -> tuple[EntryPoint, ...]:
    """All that are installed; asked about schemes that are none of ours alone, as it reads every package."""
    from importlib import metadata

    return tuple(metadata.entry_points(group=GROUP))


def brings(scheme: str) -> bool:
    """Whether an installed package opens stores with such URLs."""
    return any(each.name.lower() == scheme for each in entry_points())

"""See `somactl.address`."""

from __future__ import annotations

from somactl.address import is_local, public

__all__ = ["is_local", "public"]

"""Addresses of stores, caches and sources: one parser, which honours every part of a URL or refuses it.

`parse` gives a typed `Address` or a ConfigurationError that quotes nothing: any part of a text that was not
understood may be a password. `public` is how any text that names a server may be shown.
"""

from __future__ import annotations

from somactl.address.address import Address, Host, Use, entry_points, is_local
from somactl.address.foreign import is_address, notation
from somactl.address.parse import parse, public, refuse_cache

__all__ = [
    "Address", "Host", "Use", "entry_points", "is_address", "is_local",
    "notation", "parse", "public", "refuse_cache",
]  # fmt: skip

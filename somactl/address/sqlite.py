"""What a URL of a SQLite file may say: a path, and nothing else."""

from __future__ import annotations

import os

from somactl.address.address import Address
from somactl.address.text import Parts, decoded_path
from somactl.errors import ConfigurationError


def parse_sqlite(parts: Parts) -> Address:
    """`sqlite:///relative.db` or `sqlite:////absolute.db`."""
    if parts.places or parts.user or parts.password:
        raise ConfigurationError("a SQLite URL names a file, and has no host", hint=parts.shape())
    path = decoded_path(parts)
    if not path.strip("/"):
        raise ConfigurationError("the SQLite URL names no file", hint=parts.shape())
    if path == ":memory:":
        raise ConfigurationError(
            "a store in memory would be gone with the command", hint="name a file: sqlite:///somactl.db"
        )
    return Address(parts.scheme, path=os.path.normpath(path))

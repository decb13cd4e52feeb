"""Sources that can be changed, with values that every migration of this folder knows what to do with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from migration.forms import density, numpy_form, text
from servers.external import ExternalPostgres, ExternalRedis
from servers.postgres import PostgresServer
from servers.redis import RedisServer
from source.backends import Backend, FilesBackend, PostgresBackend, RedisBackend

RHO = density(4)
OTHER = density(4, seed=1)

VALUES: dict[str, bytes] = {
    "whole": text(numpy_form(RHO)),
    "lists": b" [[0.5, 0], [0.0, 0.5]] ",
    "embedded": b'{ "rho": %s,"n": 1.50, "t": "\\u00e9" }' % text(numpy_form(RHO)),
    "two": b'{"a": %s, "b": {"c": [1, %s]}, "z": null}' % (text(numpy_form(RHO)), text(OTHER.tolist())),
    "half": b'{"good": %s, "bad": [[1, 0], [0]]}' % text(numpy_form(OTHER)),
    "note": b'{"task": "nothing"}',
    "broken": b"[[1, 0], [0]]",
}
"""Spelt as no printer of JSON spells it, so that what is kept of it shows."""

TARGETS = {
    "whole": RHO, "embedded#/rho": RHO, "two#/a": RHO, "two#/b/c/1": OTHER, "half#/good": OTHER
}  # fmt: skip
"""What stands under each key of the store afterwards; `lists` beside them."""

LEFT = {
    "whole": None,
    "lists": None,
    "embedded": {"rho": "embedded#/rho", "n": 1.5, "t": "é"},
    "two": {"a": "two#/a", "b": {"c": [1, "two#/b/c/1"]}, "z": None},
    "half": {"good": "half#/good", "bad": [[1, 0], [0]]},
    "note": {"task": "nothing"},
    "broken": [[1, 0], [0]],
}
"""What stands in the source after finalizing, a reference to a key shown as that key; None: nothing."""


def shown(value: bytes | None) -> object:
    """A value with each reference in it as the key that it names."""

    def simplify(node: dict[str, object]) -> object:
        if list(node) == ["__somactl__"]:
            reference = node["__somactl__"]
            assert isinstance(reference, dict)
            assert set(reference) == {"key", "version", "digest"}
            return reference["key"]
        return node

    return None if value is None else json.loads(value, object_hook=simplify)


def same(backend: Backend, found: bytes | None, original: bytes | None) -> bool:
    """Whether the value is the original one: byte for byte where the source keeps bytes, as JSONB else."""
    if found is None or original is None or not isinstance(backend, PostgresBackend):
        return found == original
    return bool(json.loads(found) == json.loads(original))


def make_backend(
    kind: str,
    tmp_path: Path,
    postgres: Callable[[], PostgresServer | ExternalPostgres],
    redis: Callable[[], RedisServer | ExternalRedis],
) -> Iterator[Backend]:
    if kind == "files":
        folder = tmp_path / "values"
        folder.mkdir()
        yield FilesBackend(folder)
        return
    backend = PostgresBackend(postgres()) if kind == "postgres" else RedisBackend(redis())
    yield backend
    backend.dispose()


async def fill(backend: Backend) -> None:
    await backend.put(dict(VALUES))

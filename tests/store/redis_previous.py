"""A somactl of layout 1: its frozen scripts, called on a database as it called them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from somactl.core.framing import verify
from somactl.package_data import data_file
from somactl.store.redis import layout, revisions
from somactl.store.redis.layout import Names
from store.redis_backend import RedisBackend

KNOWS = 1
FIRST_DETAIL = '{"keys":%s,"user":{},"verdicts":{},"command":""}'


def script(backend: RedisBackend, name: str, keys: list[str], arguments: list[Any]) -> Any:
    return backend.raw.eval(data_file("lua", f"{name}.lua").read_text(), len(keys), *keys, *arguments)


def commit(backend: RedisBackend, updates: Mapping[str, bytes | None], commit_id: str) -> Any:
    """One commit of small values, without expectations; the script's reply."""
    names, token = Names("default"), layout.token()
    puts = {key: data for key, data in updates.items() if data is not None}
    deletes = [key for key, data in updates.items() if data is None]
    keys = [getattr(names, part) for part in layout.PARTS] + [names.commit(commit_id)]
    values: list[Any] = []
    told = []
    for number, (key, data) in enumerate(puts.items()):
        header = verify(data, namespace="default", key=key)
        keys += names.live(key), names.history(key), names.old(token, key), names.stage(token, number)
        values += key, header.total_length, revisions.about(header, commit_id), "", data
        told.append(f'"{key}":"{header.content}"')
    for key in deletes:
        keys += names.live(key), names.history(key), names.old(token, key)
        told.append(f'"{key}":null')
    detail = FIRST_DETAIL % ("{" + ",".join(told) + "}")
    fixed = [KNOWS, commit_id, "", "identity", detail, "memory", token, len(puts), len(deletes), 0]
    return script(backend, "commit", keys, [*fixed, *values, *deletes])


def readable(backend: RedisBackend) -> bool:
    """Whether it would read the namespace at all."""
    return int(backend.raw.hget(backend.name("default", "head"), "least_reader")) <= KNOWS

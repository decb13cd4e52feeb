"""Values that come in portions, and values that the server cannot read."""

from __future__ import annotations

import pytest

from somactl.errors import CorruptValue
from somactl.store import base
from somactl.store.postgres import PostgresStore, reading
from somactl.testing.values import content_of, envelope, put, write
from store.postgres_backend import PostgresBackend, backend as backend, opener as opener, store as store


async def test_values_that_come_in_portions(
    store: PostgresStore, backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates = {f"k{number}": envelope(f"k{number}", number, n=20 + number) for number in range(9)}
    await write(store, updates)
    await put(store, "k0", seed=77)
    await backend.overwrite("default", "k3", 1, b"too short")
    await backend.overwrite("default", "k4", 1, updates["k5"])
    await backend.rows("DELETE FROM somactl.payload WHERE octet_length(data) = $1", len(updates["k7"]))
    for size in (0, len(updates["k0"]), 3 * len(updates["k8"]), 1 << 20):
        monkeypatch.setattr(reading, "AT_ONCE_BYTES", size)
        monkeypatch.setattr(base, "OFFLOADED_BYTES", len(updates["k6"]))
        snapshot = await store.read_many(["never", *updates])
        assert (snapshot.version, snapshot.absent) == (2, ("never",))
        assert sorted(snapshot.corrupt) == ["k3", "k4", "k7"]
        defects = [snapshot.corrupt[key].facts["defect"] for key in ("k3", "k4", "k7")]
        assert defects[0] == "WrongLength"
        assert defects[2] == "MissingBytes"
        assert bytes(snapshot.entries["k0"].data) == envelope("k0", 77)
        for key in ("k1", "k2", "k5", "k6", "k8"):
            assert bytes(snapshot.entries[key].data) == updates[key]
        assert bytes((await store.read("k0", 1)).data) == updates["k0"]
        assert bytes((await store.read("k8")).data) == updates["k8"]
        for key in ("k3", "k7"):
            with pytest.raises(CorruptValue):
                await store.read(key)


async def test_pages_that_the_server_cannot_read(backend: PostgresBackend, store: PostgresStore) -> None:
    """A piece of a large value is gone from its table: the value is corrupt, and hides no other."""
    large = {key: envelope(key, n=40) for key in "abc"}
    await write(store, large)
    await backend.rows("CREATE EXTENSION pg_surgery")
    ((table,),) = await backend.rows(
        "SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 'somactl.payload'::regclass"
    )
    ((place,),) = await backend.rows(
        f"SELECT min(ctid::text) FROM {table} WHERE chunk_seq = 1 AND chunk_id = "
        f"(SELECT chunk_id FROM {table} ORDER BY chunk_id LIMIT 1)"
    )
    await backend.rows(f"SELECT heap_force_kill('{table}'::regclass, ARRAY['{place}']::tid[])")
    snapshot = await store.read_many(list(large))
    assert (list(snapshot.entries), list(snapshot.corrupt)) == (["b", "c"], ["a"])
    for call in (store.read("a"), store.read("a", 1)):
        with pytest.raises(CorruptValue, match="pages are damaged") as caught:
            await call
        assert caught.value.facts["defect"] == "DamagedPages"
    assert bytes((await store.read("b")).data) == large["b"]
    assert (await put(store, "a", seed=1, expected=1)).version == 2
    assert content_of((await store.read("a")).data) == content_of(envelope("a", 1))

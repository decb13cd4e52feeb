"""The Lua files: what they may use, which names they touch, and how they bear many keys."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from servers.redis import RedisServer
from somactl.core.framing import peek
from somactl.errors import CommitAborted, StoreUnavailable, VersionConflict
from somactl.package_data import data_file
from somactl.store.contract import Retention
from somactl.store.redis import RedisStore, connection
from somactl.store.redis.pool import Script, pieces
from somactl.testing.values import (
    commit_id_of_age,
    compact_fully,
    delete,
    envelope,
    listed,
    prune,
    put,
    write,
)
from store.redis_backend import RedisBackend, backend as backend, store as store

FILES = sorted(file for file in data_file("lua").glob("*.lua") if not file.name.startswith("cache_"))
FUNCTIONS = {
    "redis.call", "redis.pcall", "type", "string.match", "string.gsub", "string.format", "string.sub",
    "string.byte", "string.find", "math.max", "math.min", "table.concat",
    "tonumber", "tostring", "unpack", "ipairs",
}  # fmt: skip
"""What Redis, and everything that stands in for it, offers."""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_script_uses_nothing_peculiar_to_one_redis(file: Path) -> None:
    code = "\n".join(line.partition("--")[0] for line in file.read_text().splitlines())
    assert not file.read_text().startswith("#!")
    own = set(re.findall(r"local function (\w+)", code))
    for names, values in re.findall(r"^local ([\w, ]+) = ([\w., ]+)$", code, re.MULTILINE):
        aliases = dict(zip(names.split(", "), values.split(", "), strict=True))
        own |= {name for name, value in aliases.items() if value in FUNCTIONS}
    called = set(re.findall(r"([\w.]+)\(", re.sub(r"'[^'\n]*'", "''", code))) - {"function"}
    assert called - own <= FUNCTIONS


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_unpack_takes_a_bounded_number_of_words(file: Path) -> None:
    for line in file.read_text().splitlines():
        assert "unpack(" not in line or "first + 499" in line or "-- at most" in line


def test_every_script_is_used() -> None:
    sources = Path(connection.__file__).parent.glob("*.py")
    names = set(re.findall(r'Script\("(\w+)"\)', "".join(source.read_text() for source in sources)))
    assert {file.stem for file in FILES} == {name for name in names if not name.startswith("cache_")}
    assert Script("commit").digest == Script("commit").digest != Script("init").digest


async def test_every_name_that_a_script_touches_is_declared(
    backend: RedisBackend, store: RedisStore, redis_server: RedisServer
) -> None:
    """In a cluster, an undeclared name could be on another node, and be missed in the middle of a script."""
    with redis_server.client() as raw, raw.monitor() as monitor:
        await use_everything(store)
        backend.raw.echo("the end")
        declared: set[str] = set()
        scripts, touched = 0, 0
        while "the end" not in (command := monitor.next_command())["command"]:
            words = command["command"].split(" ")
            if words[0].upper() in ("EVALSHA", "EVAL") and command["client_type"] != "lua":
                declared = {word for word in words if word.startswith("somactl:")}
                scripts += 1
            elif command["client_type"] == "lua":
                names = {word for word in words[1:3] if word.startswith("somactl:")}
                assert names <= declared, command["command"]
                touched += len(names)
        assert scripts > 20
        assert touched > 300


async def use_everything(store: RedisStore) -> None:
    await store.init(retention=Retention(1, 0.0, 0.0))
    await put(store, "a", "b", expected=0)
    await put(store, "a", expected={"a": 1, "b": 1, "c": 0}, commit_id="again")
    await put(store, "a", expected={"a": 1, "b": 1, "c": 0}, commit_id="again")
    await write(store, {"a": envelope("a", n=300), "b": None, "c": None})
    await write(store, {f"k{i}": envelope(f"k{i}", n=40) for i in range(10)})
    with pytest.raises(VersionConflict):
        await put(store, "a", expected=77)
    await store.commit_status("given-up", resolve=True)
    with pytest.raises(CommitAborted):
        await put(store, "a", commit_id="given-up")
    await store.read_many(["a", "b", "zz"])
    await store.stat_many(["a", "b", "zz"])
    assert len(await listed(store.scan("k*"))) == 10
    assert len(await listed(store.scan(deleted=True))) == 1
    await put(store, "b", seed=1)
    await delete(store, "b")
    await compact_fully(store)
    await put(store, "c", "d", "e")
    await prune(store, "c", "d", grace=50.0)
    await prune(store, "e", "never", grace=0.0)
    await put(store, "d", "e", seed=1)
    await prune(store, "d", grace=0.0)
    await compact_fully(store, past_grace=True)
    await store.write_notes({"n": b"1", "m": bytes(100_000)}, {"n": 0, "other": 0})
    assert len(await store.read_notes(["n", "m", "never"])) == 2
    await store.write_notes({"m": None, "n": None})
    assert [page async for page in store.scan_notes()] == []
    await store.init(new_incarnation=True)
    await store.mark_published(3)
    await store.events()


async def test_names_that_lua_could_misread(store: RedisStore) -> None:
    """Nothing in a key, an id or a verdict is taken for a part of an entry."""
    keys = ["%1 %d+", '"content":"00"', "1 2 3 live", "- - tomb", "a - - live", "é % ^$()", "7"]
    data = {key: envelope(key, kind="rho") for key in keys}
    verdicts = {
        peeked.content: {"status": "valid", "note": '"content":"ff" - - live\n"size":1'}
        for peeked in map(peek, data.values())
    }
    for version in (1, 2):
        receipt = await write(store, data, verdicts=verdicts, commit_id=f"live:-/gone.{version}")
        assert receipt.version == version
    await put(store, *keys, seed=1, expected=2)
    assert [s.key for s in await listed(store.scan())] == sorted(keys, key=str.encode)
    (summary,) = await store.namespaces()
    assert summary.stored_bytes == sum(len(envelope(key, 1)) for key in keys)
    for key in keys:
        assert [r.version for r in await store.history(key)] == [3, 2, 1]
        assert (await store.history(key))[1].verdict == next(iter(verdicts.values()))
        assert bytes((await store.read(key, 1)).data) == data[key]


async def test_a_commit_of_many_thousand_keys(backend: RedisBackend, store: RedisStore) -> None:
    keys = [f"key-{i:05}" for i in range(10_000)]
    data = {key: envelope(key, n=1) for key in keys}
    assert (await write(store, data)).version == 1
    guarded = dict.fromkeys(keys, 1)
    receipt = await write(store, {**dict.fromkeys(keys[:5000]), "new": envelope("new")}, expected=guarded)
    assert (receipt.version, receipt.noops) == (2, ())
    stats = await store.stat_many(keys)
    assert (len(stats.stats), len(stats.absent)) == (5000, 5000)
    snapshot = await store.read_many(keys)
    assert bytes(snapshot.entries[keys[-1]].data) == data[keys[-1]]
    assert (len(snapshot.entries), snapshot.absent) == (5000, tuple(keys[:5000]))
    with pytest.raises(VersionConflict) as caught:
        await put(store, "other", expected=guarded)
    assert len(caught.value.conflicts) == 5000
    assert [stat.key for stat in await listed(store.scan(deleted=True))] == keys[:5000]
    (summary,) = await store.namespaces()
    assert (summary.keys, summary.tombstones) == (5001, 5000)


async def test_the_largest_number_of_keys_in_a_commit(backend: RedisBackend) -> None:
    store = RedisStore(backend.url, timeout=120.0)
    await store.init()
    keys = [f"{i:05}" for i in range(65_536)]
    data = {key: envelope(key, n=1) for key in keys}
    receipt = await write(store, data, commit_id="largest")
    assert len(receipt.keys) == 65_536
    assert bytes((await store.read("65535")).data) == data["65535"]
    (summary,) = await store.namespaces()
    assert summary.keys == 65_536
    receipt = await write(store, dict.fromkeys([*keys[:-1], "never"]))
    assert (receipt.version, receipt.noops) == (2, ("never",))
    assert [stat.key for stat in await listed(store.scan())] == ["65535"]
    status = await store.commit_status("largest")
    assert status.record is not None
    assert status.record.receipt is not None
    assert len(status.record.receipt.keys) == 65_536
    await store.close()


async def test_an_old_id_is_refused_by_the_script_as_by_the_rules(store: RedisStore) -> None:
    """The script and `refuse_expired` agree about every moment: they compare the same two numbers."""
    await store.init(retention=Retention(record_seconds=100.0))
    for age in (99.0, 99.9, 100.1, 101.0):
        outcome = await asyncio.gather(
            put(store, "a", commit_id=commit_id_of_age(age)), return_exceptions=True
        )
        assert type(outcome[0]).__name__ == ("Receipt" if age < 100 else "CommitExpired")


@pytest.mark.parametrize(
    "commands",
    [
        [("SET", "k", "v")],
        [("SET", "é", 7), ("GET", b"\0\r\n")],
        [("SET", "k", b"x" * 20_000, "PX", 5), ("GET", "k")],
        [("SET", "k", memoryview(bytes(3 << 20)), "PX", 5)],
        [("SET", f"k{i}", bytes(i * 1000)) for i in range(60)],
        [("EVAL", b"x" * 17_000, 2, "a", "b", b"y" * 17_000, *range(1000))],
    ],
    ids=["small", "odd", "large", "huge", "many", "mixed"],
)
def test_commands_are_packed_as_redis_py_packs_them(commands: list[tuple[Any, ...]]) -> None:
    from redis.asyncio.connection import Connection

    packer = Connection()
    sent = list(pieces(commands))
    expected = b"".join(bytes(part) for command in commands for part in packer.pack_command(*command))
    assert b"".join(bytes(part) for piece in sent for part in piece) == expected
    assert all(sum(map(len, piece)) <= 1 << 20 for piece in sent)


async def test_values_gone_before_their_commit_are_told(
    backend: RedisBackend, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the server was so slow that what was staged has expired."""
    ask = store._link.ask

    async def slow(*commands: Any, commit_id: str | None = None, **rest: Any) -> list[Any]:
        if commit_id is not None:
            for token in list(backend.names("default", "stage")):
                backend.raw.delete(backend.name("default", f"stage:{token}"))
        return await ask(*commands, commit_id=commit_id, **rest)

    monkeypatch.setattr(store._link, "ask", slow)
    with pytest.raises(StoreUnavailable, match="gone before") as caught:
        await write(store, {"a": envelope("a", n=300)}, commit_id="slow")
    assert caught.value.retryable
    monkeypatch.undo()
    assert (await write(store, {"a": envelope("a", n=300)}, commit_id="slow")).version == 1

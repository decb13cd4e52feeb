"""Values as hostile as data from outside: each is refused by itself, and what is good beside it migrated."""

from __future__ import annotations

import base64
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migration.forms import density, numpy_form, text, wrapped
from migration.running import DISCOVER, Migration, by_place, of_lines, outcomes, same_bits
from servers.external import ExternalPostgres
from servers.postgres import PostgresServer
from servers.redis import RedisServer
from somactl.config import Settings
from somactl.legacy.request import MigrationRequest, Selection
from somactl.legacy.source.redis import RedisSource
from source.backends import Backend, PostgresBackend, RedisBackend

RHO = density(4)
FORM = numpy_form(RHO)
DATA = FORM["data"]


def changed(**fields: Any) -> bytes:
    return text({**FORM, **fields})


def lacking(name: str) -> bytes:
    return text({key: value for key, value in FORM.items() if key != name})


JSON = "InvalidJson"
REJECTED: dict[str, tuple[bytes, str]] = {
    "too few bytes": (changed(shape=[5, 5]), "holds 128 bytes where shape [5, 5] of float64 takes 200"),
    "too many bytes": (changed(shape=[2, 2]), "holds 128 bytes where shape [2, 2]"),
    "no room": (changed(shape=[1_000_000, 1_000_000]), "of float64 takes 8000000000000"),
    "overflow": (changed(shape=[2**32, 2**32]), "holds 128 bytes where shape"),
    "sizes beyond 64 bits": (changed(shape=[2**70, 1]), JSON),
    "negative": (changed(shape=[-4, -4]), "has a size that is not positive"),
    "zero": (changed(shape=[0, 4], data=""), "has a size that is not positive"),
    "one dimension": (changed(shape=[16]), "not of a matrix"),
    "three dimensions": (changed(shape=[2, 2, 4]), "not of a matrix"),
    "a size as a float": (changed(shape=[4.0, 4]), "something else than integers"),
    "a size as a boolean": (changed(shape=[True, 16]), "something else than integers"),
    "a shape that is text": (changed(shape="4x4"), "`shape` is a string"),
    "object dtype": (changed(dtype="object"), "dtype 'object' is not supported"),
    "object code": (changed(dtype="|O"), "is not supported"),
    "unknown dtype": (changed(dtype="float65"), "is not supported"),
    "structured dtype": (changed(dtype="f8,f8"), "is not supported"),
    "string dtype": (changed(dtype="<U4"), "is not supported"),
    "dtype that is no text": (changed(dtype=[["a", "<f8"]]), "dtype a list is not supported"),
    "no base64": (changed(data="!" * 172), JSON),
    "urlsafe base64": (changed(data="-_" * 86), JSON),
    "no padding": (changed(data=DATA.rstrip("=")), JSON),
    "stray bits": (changed(data=DATA[:-2] + "B="), JSON),
    "a line break in base64": (changed(data=DATA[:76] + "\n" + DATA[76:]), JSON),
    "data as a list": (changed(data=[1, 2]), "`data` is a list"),
    "nan in the data": (text(numpy_form(np.full((2, 2), np.nan))), "NonFinite|InvalidJson"),
    "inf in the data": (text(numpy_form(np.array([[np.inf, 0], [0, 1]]))), "NonFinite|InvalidJson"),
    "mark is false": (changed(__np__=False), "`__np__` is not true"),
    "mark is one": (changed(__np__=1), "`__np__` is not true"),
    "an extra field": (changed(order="C"), "not the fields of the numpy form"),
    "no data": (lacking("data"), "not the fields"),
    "no shape": (lacking("shape"), "not the fields"),
    "no dtype": (lacking("dtype"), "not the fields"),
    "integers not exact": (b"[[1, 9007199254740993], [0, 0]]", "not representable in float64"),
    "huge integer": (b"[[1, %s], [0, 0]]" % (b"9" * 400), JSON),
    "float overflow": (b"[[1, 1e400], [0, 0]]", JSON),
    "integer array not exact": (text(numpy_form(np.full((2, 2), 2**53 + 1))), JSON),
    "ragged": (b"[[1, 0], [0]]", "ragged"),
    "ragged by swapping": (b"[[1, 0, 0], [0]]", "ragged"),
    "mixed": (b'[[1, "a"], [0, 1]]', "row 0, column 1 is a string"),
    "deeper at the end": (b"[[1, 0], [0, [1]]]", JSON),
    "shallower at the end": (b"[[1, 0], 1]", "row 1 is a number"),
    "empty row": (b"[[]]", JSON),
    "empty rows": (b"[[], []]", JSON),
    "numbers as strings": (b'[["0.5", "0.5"], ["0.5", "0.5"]]', "is a string, not a number"),
    "booleans": (b"[[true, false], [false, true]]", "is a boolean, not a number"),
    "nulls": (b"[[null, 0], [0, 1]]", "is null, not a number"),
    "an object inside of the data": (changed(data={"a": 1}), "`data` is an object"),
    "wrapped three times": (wrapped(text(FORM), 3), JSON),
    "wrapped ragged": (wrapped(b"[[1, 0], [0]]"), "ragged"),
    "pairs for complex numbers": (b"[[[1, 0], [0, 0]], [[0, 0], [0, 0]]]", JSON),
}
"""Name -> value, and its row's reason, or a part of its sentence. PostgreSQL takes all of them too."""

NO_JSONB: dict[str, tuple[bytes, str]] = {
    "NaN token": (b"[[NaN, 0], [0, 1]]", "the token NaN"),
    "Infinity token": (b"[[1, 0], [0, -Infinity]]", "the token Infinity"),
    "duplicate data": (text(FORM)[:-1] + b', "data": "AAAA"}', "the key 'data' occurs twice"),
    "duplicate mark": (b'{"__np__": false, ' + text(FORM)[1:], "the key '__np__' occurs twice"),
    "cut short": (text(FORM)[:-1], JSON),
    "cut in the numbers": (b"[[0.5, 0.5], [0.5", JSON),
    "text after it": (text(FORM) + b" x", JSON),
    "leading zeros": (b"[[01, 0], [0, 1]]", JSON),
    "a comma too many": (b"[[1, 0], [0, 1],]", JSON),
}
"""What JSONB cannot hold: it knows no such tokens, merges duplicate keys, and is always JSON."""

LEFT_ALONE = {
    "empty object": b"{}",
    "empty list": b"[]",
    "empty text": b'""',
    "words": b'"[[words]]"',
    "number": b"1e300",
    "null": b"null",
    "true": b"true",
    "coordinate": b"[1.0, 2.0, 3.0]",
    "table": b'[["name", "value"], ["a", 1]]',
    "objects": b'[{"a": 1}, {"a": 2}]',
    "list of objects in lists": b'[[{"a": 1}]]',
    "mark as text": b'{"text": "__np__"}',
}
GOOD = {f"good {i}": text(numpy_form(density(4, seed=i))) for i in range(3)} | {
    "~ last": text(density(3, seed=9).tolist())
}


@pytest.fixture(params=["redis", "postgres"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "redis":
        made: Backend = RedisBackend(request.getfixturevalue("clean_redis"))
    else:
        made = PostgresBackend(request.getfixturevalue("postgres_server"))
    yield made
    made.dispose()


async def check(migration: Migration, cases: dict[str, tuple[bytes, str]], plain: dict[str, bytes]) -> None:
    """Each case is rejected for its reason, the plain ones are no matrices, and the good ones are there."""
    dry, rows = await migration.inspect()
    real = await migration.copy()
    assert outcomes(dry) == outcomes(real)
    assert outcomes(real) == {
        "migrate": len(GOOD),
        "rejected": len(cases),
        **({"not-a-matrix": len(plain)} if plain else {}),
    }
    places = {row.key: row for row in by_place(rows).values()}
    for name, (_, why) in cases.items():
        row = places[name]
        assert row.outcome == "rejected", name
        assert row.reason in why.split("|") or why in row.why, (name, row.reason, row.why)
        assert name in row.why, row.why
        assert len(row.why) < 1000
    assert {name for name in plain if places[name].outcome != "not-a-matrix"} == set()
    contents = await migration.contents()
    assert set(contents) == set(GOOD)
    for row in rows:
        if row.outcome == "migrate":
            assert contents[row.key] == row.content
    for key in GOOD:
        wanted = density(3, seed=9) if key == "~ last" else density(4, seed=int(key[-1]))
        assert same_bits(await migration.matrix(key), wanted)


@pytest.mark.parametrize("discover", [False, True])
async def test_lines_with_every_kind_of_bad_value(sqlite: Settings, discover: bool) -> None:
    cases = REJECTED | NO_JSONB
    del cases["text after it"]  # in a line that is text after the value: no line of the form at all
    values = {name: value for name, (value, _) in cases.items()} | LEFT_ALONE | GOOD
    wishes = MigrationRequest(selection=Selection(discover=discover))
    await check(of_lines(values, sqlite, wishes), cases, LEFT_ALONE)


async def test_servers_with_every_kind_of_bad_value(backend: Backend, sqlite: Settings) -> None:
    cases = REJECTED if isinstance(backend, PostgresBackend) else REJECTED | NO_JSONB
    if isinstance(backend, PostgresBackend):
        cases = {name: case for name, case in cases.items() if name != "float overflow"}
    await backend.put({name: value for name, (value, _) in cases.items()} | LEFT_ALONE | GOOD)
    await check(Migration(backend.open, sqlite), cases, LEFT_ALONE)


@pytest.mark.parametrize("name", sorted(REJECTED))
async def test_inside_of_an_object_each_is_rejected_at_its_node_alone(sqlite: Settings, name: str) -> None:
    """Beside it, in the same value, a good one is migrated."""
    value, why = REJECTED[name]
    whole = b'{"bad": %s, "good": %s, "x": [NaN]}' % (value, text(FORM))
    migration = of_lines({"K": whole}, sqlite, DISCOVER)
    report = await migration.copy()
    assert outcomes(report)["migrate"] == 1, [(r.pointer, r.why) for r in report.rejected]
    assert set(await migration.contents()) == {"K#/good"}
    assert same_bits(await migration.matrix("K#/good"), RHO)
    assert report.rejected[0].pointer.startswith("/bad")
    assert any(why in row.why or row.reason in why.split("|") for row in report.rejected)


# Depth, length and number.


def bomb(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * depth + closing * depth


BOMBS = {
    "lists": bomb(1_000_000),
    "lists around a number": b"[" * 100_000 + b"1" + b"]" * 100_000,
    "objects": bomb(100_000, b'{"a":', b"}").replace(b'{"a":}', b'{"a":1}'),
    "never closed": b"[" * 1_000_000,
    "mixed": bomb(50_000, b'[{"a":', b"}]").replace(b'{"a":}', b'{"a":1}'),
    "rows and depth": b'{"rho": [[1, 0], [0, 1]], "x": ' + bomb(5_000) + b"}",
    "marked and deep": b'{"__np__": true, "x": ' + bomb(5_000) + b"}",
}


@pytest.mark.parametrize("discover", [False, True])
async def test_depth_bombs_end_at_once(clean_redis: RedisServer, sqlite: Settings, discover: bool) -> None:
    backend = RedisBackend(clean_redis)
    await backend.put({f"bomb {name}": value for name, value in BOMBS.items()} | GOOD)
    migration = Migration(backend.open, sqlite, MigrationRequest(selection=Selection(discover=discover)))
    began = time.monotonic()
    report = await migration.copy()
    assert time.monotonic() - began < 20
    assert report.values == len(BOMBS) + len(GOOD)
    assert set(await migration.contents()) == set(GOOD)
    rejected = {row.key for row in report.rejected}
    assert "bomb marked and deep" in rejected
    if discover:
        assert "bomb rows and depth" in rejected


async def test_a_hundred_megabytes_are_read_once_and_not_kept(
    clean_redis: RedisServer, sqlite: Settings
) -> None:
    """A matrix of 100 MB of JSON that is none: one number short at its end."""
    row = b"[" + b"0.0001220703125," * 2047 + b"0.0001220703125],"
    value = b"[" + row * 3050 + b"[1]]"
    assert len(value) > 99_000_000
    backend = RedisBackend(clean_redis)
    await backend.put({"large": value, "words": b'"' + b"x" * 100_000_000 + b'"', **GOOD})
    del value
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    migration = Migration(backend.open, sqlite, DISCOVER)
    report = await migration.copy()
    assert time.monotonic() - began < 60
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 10 * 100_000_000, f"{grown / 1e6:.0f} MB"
    assert outcomes(report) == {"migrate": 4, "not-a-matrix": 1, "rejected": 1}
    assert "ragged" in report.rejected[0].why
    assert set(await migration.contents()) == set(GOOD)


async def test_one_value_with_very_many_matrices(sqlite: Settings) -> None:
    many = text([[[1.0]]] * 10)  # three deep: rejected whole
    small = text({f"m{i}": [[1.0]] for i in range(1500)})
    migration = of_lines({"many": many, "small": small, **GOOD}, sqlite, DISCOVER)
    report = await migration.copy()
    assert outcomes(report) == {"migrate": 1504, "rejected": 1}
    assert (len(report.pointers), report.pointers_omitted) == (1000, 501)
    assert len(report.largest) == 10


async def test_more_matrices_than_one_value_may_have_are_rejected_as_a_whole(sqlite: Settings) -> None:
    value = text({f"m{i}": [[1.0]] for i in range(10_001)})
    migration = of_lines({"K": value, **GOOD}, sqlite, DISCOVER)
    report = await migration.copy()
    assert outcomes(report) == {"migrate": 4, "rejected": 1}
    assert report.rejected[0].reason == "LimitExceeded"


# Keys.

KEYS = {
    "with spaces and: colons (1.0, 2.0)": True,
    "Ünïcödé 漢字 \U0001f600": True,
    "#": True,
    "a#/b": True,
    'quote"s and \\backslashes\\': True,
    "k" * 1024: True,
    "k" * 1025: False,
    "k" * 2000: False,
    "ä" * 600: False,
    "new\nline": False,
    "escape\x1b[31m": False,
    "c1 \x85": False,
}
"""Key -> whether it is one of ours too."""


@pytest.mark.parametrize("key", KEYS, ids=lambda key: ascii(key)[:24])
async def test_keys_of_every_sort(backend: Backend, sqlite: Settings, key: str) -> None:
    await backend.put({key: text(FORM), "object " + key: text({"rho": FORM}), **GOOD})
    migration = Migration(backend.open, sqlite, DISCOVER)
    report = await migration.copy()
    embedded = KEYS[key] and len(f"object {key}#/rho".encode()) <= 1024
    expected = {*GOOD, *([key] if KEYS[key] else []), *([f"object {key}#/rho"] if embedded else [])}
    assert set(await migration.contents()) == expected
    assert outcomes(report)["migrate"] == len(expected)
    for row in report.rejected:
        assert row.reason == "InvalidName"
        assert len(row.key.encode()) < 5000
    again = await migration.copy()
    assert outcomes(again)["identical"] == len(expected)
    if KEYS[key]:
        assert (await migration.finalize()).code == 0
        assert await backend.read(key) is None
        assert (await migration.revert()).code == 0
        assert json.loads(await backend.read(key) or b"") == FORM


async def test_keys_that_are_no_text(clean_redis: RedisServer, sqlite: Settings) -> None:
    """Bytes that are no UTF-8, in Redis: shown escaped, rejected, and of no harm to one that reads alike."""
    with clean_redis.client() as raw:
        for key in (b"\xff\xfe", b"\\xff\\xfe", b"a\x00b", b"", b"\xed\xa0\x80"):
            raw.set(key, text(FORM))
        for key, value in GOOD.items():
            raw.set(key, value)
    migration = Migration(lambda **options: RedisSource(clean_redis.url, **options), sqlite, DISCOVER)
    report = await migration.copy()
    assert set(await migration.contents()) == {*GOOD, "\\xff\\xfe"}
    assert {row.reason for row in report.rejected} == {"InvalidName"}
    assert len(report.rejected) == 4
    assert (await migration.finalize()).finalized == len(GOOD) + 1
    with clean_redis.client() as raw:
        assert raw.get(b"\xff\xfe") == text(FORM)
        assert raw.get(b"\\xff\\xfe") is None


async def test_what_is_no_string_in_redis_is_no_matrix(clean_redis: RedisServer, sqlite: Settings) -> None:
    with clean_redis.client() as raw:
        raw.hset("hash", mapping={"a": text(FORM)})
        raw.rpush("list", text(FORM))
        raw.sadd("set", text(FORM))
        raw.zadd("zset", {"a": 1})
        raw.xadd("stream", {"a": "b"})
        raw.set("number", 5)
        raw.set("binary", b"\x00\xff" * 50)
        raw.set("empty", b"")
        raw.set("rho", text(FORM))
    migration = Migration(lambda **options: RedisSource(clean_redis.url, **options), sqlite, DISCOVER)
    dry, rows = await migration.inspect()
    assert {row.key: row.reason for row in rows if row.outcome == "not-a-matrix"} == {
        "hash": "a Redis hash",
        "list": "a Redis list",
        "set": "a Redis set",
        "zset": "a Redis sorted set",
        "stream": "a Redis stream",
        "number": "a number, a boolean or null",
        "binary": "binary data",
        "empty": "empty",
    }
    assert outcomes(await migration.copy()) == outcomes(dry) == {"migrate": 1, "not-a-matrix": 8}


async def test_envelopes_that_are_damaged_are_rejected_by_what_is_wrong(
    clean_redis: RedisServer, sqlite: Settings
) -> None:
    """The attacks that the decoder is tested with, as values of the old service."""
    attacks = Path(__file__).parents[1] / "attacks"
    names = ["flipped_in_payload", "truncated_at_payload", "nan", "shape_product_overflow", "zstd_bomb"]
    with clean_redis.client() as raw:
        for name in names:
            data = (attacks / f"{name}.bin").read_bytes()
            raw.set(f"raw {name}", data)
            raw.set(f"text {name}", base64.b64encode(data))
        for key, value in GOOD.items():
            raw.set(key, value)
    migration = Migration(lambda **options: RedisSource(clean_redis.url, **options), sqlite, DISCOVER)
    report = await migration.copy()
    assert outcomes(report) == {"migrate": 4, "rejected": 2 * len(names)}
    by_name: dict[str, set[str]] = {}
    for row in report.rejected:
        by_name.setdefault(row.key.partition(" ")[2], set()).add(row.reason)
    assert all(len(reasons) == 1 for reasons in by_name.values())
    assert by_name["flipped_in_payload"] == {"DigestMismatch"}
    assert set(await migration.contents()) == set(GOOD)


async def test_a_postgres_that_keeps_text_or_json_is_read_as_redis_is(
    postgres_server: PostgresServer | ExternalPostgres, sqlite: Settings
) -> None:
    """Where the column is `json` or `text`, duplicate keys and blanks are as they were written."""
    for column in ("json", "text"):
        backend = PostgresBackend(
            postgres_server, table=f"CREATE TABLE kv_store (key text PRIMARY KEY, value {column} NOT NULL)"
        )
        cases = {name: NO_JSONB[name] for name in ("duplicate data", "duplicate mark")}
        if column == "text":
            cases = NO_JSONB
        await backend.put({name: value for name, (value, _) in cases.items()})
        migration = Migration(backend.open, sqlite)
        report = await migration.copy()
        assert outcomes(report) == {"rejected": len(cases)}
        backend.dispose()

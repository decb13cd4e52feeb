"""Each form a matrix was left in, at each place where it may stand, and two that want the same place."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from migration.forms import density, key_orders, numpy_form, text, wrapped
from migration.running import DISCOVER, WHOLE, Migration, by_place, of_lines, outcomes, same_bits
from migration.stopping import after_batches
from servers.redis import RedisServer
from somactl.config import Settings
from somactl.core.envelope import serialize_matrix
from somactl.legacy import batches
from somactl.legacy.request import MigrationRequest, Selection
from somactl.legacy.source.redis import RedisSource
from somactl.operations.admission import Policy
from somactl.operations.commit import commit_matrix_update

RHO = density(5)


async def copied(values: dict[str, bytes], settings: Settings, wishes: MigrationRequest = WHOLE) -> Migration:
    """Migrate all of them; each must have ended as a matrix in the store."""
    migration = of_lines(values, settings, wishes)
    _, rows = await migration.inspect()
    assert {row.outcome for row in rows} == {"migrate"}, [(row.key, row.reason, row.why) for row in rows]
    report = await migration.copy()
    assert outcomes(report) == {"migrate": len(rows)}
    return migration


async def test_the_numpy_form_in_every_order_of_its_keys(sqlite: Settings) -> None:
    values = {f"k{i}": value for i, value in enumerate(key_orders(numpy_form(RHO)))}
    assert len(values) == 24
    migration = await copied(values, sqlite)
    for key in values:
        assert same_bits(await migration.matrix(key), RHO)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
async def test_every_dtype_that_envelopes_have_is_kept(sqlite: Settings, dtype: str) -> None:
    rho = density(6, dtype=dtype)
    migration = await copied({"k": text(numpy_form(rho))}, sqlite)
    assert same_bits(await migration.matrix("k"), rho)


@pytest.mark.parametrize(
    ("dtype", "stored"), [("float16", "float32"), ("int64", "float64"), (">f8", "float64")]
)
async def test_other_dtypes_are_widened_exactly(sqlite: Settings, dtype: str, stored: str) -> None:
    array = (np.arange(6).reshape(2, 3) / (1 if "int" in dtype else 8)).astype(dtype)
    migration = await copied({"k": text(numpy_form(array, dtype=dtype))}, sqlite)
    assert same_bits(await migration.matrix("k"), array.astype(stored))


async def test_nested_lists_are_rounded_as_python_rounds_them(sqlite: Settings) -> None:
    values = {
        "rho": text(RHO.tolist()),
        "integers": b"[[1, 2], [3, 9007199254740992]]",
        "blanks": b" [ [ 1e0 ,\t-0.0 ] ,\r[ 4.9e-324 , 1.7976931348623157e308 ] ] ",
        "digits": b"[[0.1000000000000000055511151231257827, 123456789012345678901234567890.0], [0, 1]]",
        "row": b"[[0.25, 0.5, 1.0]]",
    }
    migration = await copied({"rho": values["rho"]}, sqlite)
    assert same_bits(await migration.matrix("rho"), RHO)
    del values["rho"]
    migration = await copied(values, sqlite, MigrationRequest(selection=Selection(kind="matrix")))
    assert same_bits(await migration.matrix("integers"), np.array([[1, 2], [3, 2.0**53]]))
    assert same_bits(
        await migration.matrix("blanks"), np.array([[1, -0.0], [5e-324, 1.7976931348623157e308]])
    )
    assert same_bits(await migration.matrix("digits"), np.array([[0.1, 1.2345678901234568e29], [0, 1]]))
    assert same_bits(await migration.matrix("row"), np.array([[0.25, 0.5, 1.0]]))


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("inner", [text(numpy_form(RHO)), text(RHO.tolist())], ids=["numpy", "lists"])
async def test_a_string_that_holds_a_matrix_is_unwrapped(sqlite: Settings, inner: bytes, times: int) -> None:
    migration = await copied({"k": wrapped(inner, times)}, sqlite)
    assert same_bits(await migration.matrix("k"), RHO)


async def test_a_string_wrapped_three_times_is_rejected_and_not_passed_over(sqlite: Settings) -> None:
    report, _ = await of_lines({"k": wrapped(text(numpy_form(RHO)), 3)}, sqlite).inspect()
    (row,) = report.rejected
    assert (row.form, row.reason) == ("string", "InvalidJson")


async def test_matrices_inside_of_objects_lists_and_strings_are_found(sqlite: Settings) -> None:
    value = {
        "rho": numpy_form(RHO),
        "deep": {"er": [1, {"lists": RHO.tolist()}, None]},
        "string": text(RHO.tolist()).decode(),
        "sketch": numpy_form(RHO[:2]),
        "coordinate": [1.0, 2.0],
        "many": [numpy_form(RHO), numpy_form(2 * RHO)],
    }
    migration = await copied({"K": text(value)}, sqlite, DISCOVER)
    kept = await migration.contents()
    assert set(kept) == {
        "K#/rho", "K#/deep/er/1/lists", "K#/string", "K#/sketch", "K#/many/0", "K#/many/1"
    }  # fmt: skip
    for pointer in ("/rho", "/deep/er/1/lists", "/string", "/many/0"):
        assert same_bits(await migration.matrix(f"K#{pointer}"), RHO)
    assert same_bits(await migration.matrix("K#/many/1"), 2 * RHO)
    assert same_bits(await migration.matrix("K#/sketch"), RHO[:2])


@pytest.mark.parametrize(
    ("name", "pointer"),
    [("a/b", "/a~1b"), ("a~b", "/a~0b"), ("~1", "/~01"), ("", "/"), (" ", "/ "), ("ä", "/ä"), ("0", "/0")],
)
async def test_pointers_are_escaped_as_rfc_6901_says(sqlite: Settings, name: str, pointer: str) -> None:
    value = {"K": text({name: RHO.tolist(), "beside": 1})}
    migration = await copied(value, sqlite, DISCOVER)
    assert set(await migration.contents()) == {f"K#{pointer}"}
    _, rows = await of_lines(value, sqlite, MigrationRequest(selection=Selection((pointer,)))).inspect()
    assert [(row.pointer, row.outcome) for row in rows] == [(pointer, "identical")]


async def test_a_pointer_through_a_list_names_an_index(sqlite: Settings) -> None:
    value = text([[0, RHO.tolist()], {"x": [numpy_form(RHO)]}])
    for pointer in ("/0/1", "/1/x/0"):
        await copied({"K": value}, sqlite, MigrationRequest(selection=Selection((pointer,))))
    absent, _ = await of_lines(
        {"K": value}, sqlite, MigrationRequest(selection=Selection(("/0/01", "/2", "/-")))
    ).inspect()
    assert absent.reasons["not-a-matrix: nothing stands at the pointer"].count == 1


async def test_numbers_three_deep_are_rejected_whole_until_a_pointer_says_what_they_are(
    sqlite: Settings,
) -> None:
    value = {"K": text({"many": [RHO.tolist(), RHO.tolist()]})}
    report, _ = await of_lines(value, sqlite, DISCOVER).inspect()
    assert [(row.pointer, row.reason) for row in report.rejected] == [("/many", "InvalidJson")]
    await copied(value, sqlite, MigrationRequest(selection=Selection(("/many/0", "/many/1"))))


async def test_what_is_an_envelope_already_is_taken_as_it_is(
    sqlite: Settings, clean_redis: RedisServer
) -> None:
    """As bytes, as Redis alone can hold them, and as base64 text: bare, as a JSON string, and embedded."""

    def envelope(key: str) -> bytes:
        return serialize_matrix(RHO, key=key, kind="rho", timestamp=5.0)

    encoded = {key: base64.b64encode(envelope(key)) for key in ("bare", "string", "in#/rho")}
    with clean_redis.client() as raw:
        raw.set("raw", envelope("raw"))
        raw.set("bare", encoded["bare"])
        raw.set("string", b'"' + encoded["string"] + b'"')
        raw.set("in", b'{"rho": "' + encoded["in#/rho"] + b'", "x": 1}')
        raw.set("foreign", envelope("of another key"))
    migration = Migration(lambda **options: RedisSource(clean_redis.url, **options), sqlite, DISCOVER)
    report = await migration.copy()
    assert outcomes(report) == {"migrate": 4, "rejected": 1}
    assert {name: tally.count for name, tally in report.forms.items()} == {"envelope": 5}
    assert (report.rejected[0].key, report.rejected[0].reason) == ("foreign", "WrongAddress")
    for key in ("raw", "bare", "string", "in#/rho"):
        assert same_bits(await migration.matrix(key), RHO)


async def test_an_envelope_of_another_key_may_be_readdressed(sqlite: Settings) -> None:
    encoded = base64.b64encode(serialize_matrix(RHO, key="old", kind="rho", timestamp=5.0)).decode()
    migration = await copied({"new": text(encoded)}, sqlite, MigrationRequest(policy=Policy(readdress=True)))
    assert same_bits(await migration.matrix("new"), RHO)


# Two that want the same place.


async def in_store(migration: Migration, **matrices: np.ndarray) -> None:
    """A version for each; `__` in a name stands for `#/`."""
    async with migration.store() as store:
        for name, array in matrices.items():
            await commit_matrix_update(store, {name.replace("__", "#/"): array}, policy=Policy(kind="matrix"))


async def test_a_target_that_holds_the_same_is_identical_and_another_is_a_conflict(sqlite: Settings) -> None:
    wishes = MigrationRequest(selection=Selection(discover=True, kind="matrix"))
    value = text({"same": RHO.tolist(), "other": RHO.tolist(), "free": RHO.tolist()})
    migration = of_lines({"K": value}, sqlite, wishes)
    await in_store(migration, K__same=RHO, K__other=2 * RHO)
    dry, rows = await migration.inspect()
    real = await migration.copy()
    assert outcomes(dry) == outcomes(real) == {"conflict": 1, "identical": 1, "migrate": 1}
    assert {row.pointer: row.outcome for row in rows} == {
        "/same": "identical", "/other": "conflict", "/free": "migrate"
    }  # fmt: skip
    assert (dry.code, real.code) == (3, 3)
    assert [row.target for row in real.conflicts] == ["K#/other"]
    assert "another matrix since version 2" in real.conflicts[0].why
    assert same_bits(await migration.matrix("K#/other"), 2 * RHO)


def colliding(second: Any) -> dict[str, bytes]:
    """A matrix at /rho of K, and a whole value whose key is `K#/rho`, in the order of the keys."""
    return {"K": text({"rho": RHO.tolist()}), "K#/rho": text(second)}


@pytest.mark.parametrize("apart", [False, True], ids=["one batch", "two batches"])
@pytest.mark.parametrize(("second", "ends"), [(RHO, "identical"), (density(5, seed=9), "conflict")])
async def test_two_matrices_of_one_source_that_go_to_one_key(
    sqlite: Settings, monkeypatch: pytest.MonkeyPatch, second: np.ndarray, ends: str, apart: bool
) -> None:
    """The first in the order of the keys has it, in the dry run as in the real one."""
    if apart:
        monkeypatch.setattr(batches, "BATCH_VALUES", 1)
    migration = of_lines(colliding(second.tolist()), sqlite, DISCOVER)
    dry, rows = await migration.inspect()
    real = await migration.copy()
    assert outcomes(dry) == outcomes(real) == {"migrate": 1, ends: 1}
    assert by_place(rows)["K#/rho", ""].outcome == ends
    assert by_place(rows)["K#/rho", ""].reason == "collision"
    assert same_bits(await migration.matrix("K#/rho"), RHO)
    if ends == "conflict":
        assert "another matrix of this source" in real.conflicts[0].why


async def test_of_two_that_collide_neither_is_identical_to_a_third_in_the_store(sqlite: Settings) -> None:
    migration = of_lines(
        colliding(RHO.tolist()), sqlite, MigrationRequest(selection=Selection((), True, "matrix"))
    )
    await in_store(migration, K__rho=2 * RHO)
    dry, _ = await migration.inspect()
    real = await migration.copy()
    assert outcomes(dry) == outcomes(real) == {"conflict": 2}


@pytest.mark.parametrize("stop", [1, 2])
async def test_a_collision_is_seen_across_a_stop(
    sqlite: Settings, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr(batches, "BATCH_VALUES", 1)
    values = {"A": text(1), **colliding(density(5, seed=9).tolist())}
    migration = of_lines(values, sqlite, DISCOVER)
    stopped = await migration.copy(pace=after_batches(stop))
    assert (stopped.complete, stopped.values) == (False, stop)
    report = await migration.copy(resume=True)
    assert outcomes(report) == {"conflict": 1, "migrate": 1, "not-a-matrix": 1}
    assert same_bits(await migration.matrix("K#/rho"), RHO)

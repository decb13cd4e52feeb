"""Bytes that are not what was committed are never served."""

from __future__ import annotations

import pytest

from somactl.errors import CorruptValue
from somactl.store.contract import Store
from somactl.testing.backend import Backend
from somactl.testing.contract_tests import ContractTests
from somactl.testing.values import envelope, listed, put, refused, write

GOOD = envelope("a", n=100)

# What is wrong -> the bytes, and how the error must call it where every store can tell.
DAMAGE: dict[str, tuple[bytes, str | None]] = {
    "empty": (b"", None),
    "truncated": (GOOD[:-1], None),
    "extended": (GOOD + b"\0", None),
    "zeroed": (bytes(len(GOOD)), "BadMagic"),
    "first bit": (bytes([GOOD[0] ^ 1]) + GOOD[1:], "BadMagic"),
    "last bit": (GOOD[:-1] + bytes([GOOD[-1] ^ 1]), "DigestMismatch"),
    "middle bit": (GOOD[:40_000] + bytes([GOOD[40_000] ^ 16]) + GOOD[40_001:], "DigestMismatch"),
    "header bit": (GOOD[:50] + bytes([GOOD[50] ^ 1]) + GOOD[51:], "DigestMismatch"),
    "another key's value": (envelope("b", n=100), "WrongAddress"),
    "another namespace's value": (envelope("a", n=100, namespace="another"), "WrongAddress"),
    "an older value": (envelope("a", 1, n=100), "OtherEnvelope"),
    "another label on the same matrix": (envelope("a", n=100, timestamp=1.0), "OtherEnvelope"),
    "no envelope": (b"[[1.0, 0.0], [0.0, 0.0]]", None),
}


class CorruptionChapter(ContractTests):
    @pytest.mark.parametrize("damage", DAMAGE)
    async def test_damaged_bytes_are_never_served(
        self, backend: Backend, store: Store, writer: Store, damage: str
    ) -> None:
        data, defect = DAMAGE[damage]
        await write(writer, {"a": GOOD, "b": envelope("b")})
        assert await backend.stored_bytes("default", "a", 1) == GOOD
        await backend.overwrite("default", "a", 1, data)
        with pytest.raises(CorruptValue, match="'a'") as caught:
            await store.read("a")
        assert (caught.value.exit_code, caught.value.facts["key"]) == (3, "a")
        assert caught.value.facts["defect"]
        if defect:
            assert caught.value.facts["defect"] == defect
        await refused(CorruptValue, store.read("a", 1))
        snapshot = await store.read_many(["a", "b", "c"])
        assert (list(snapshot.entries), snapshot.absent, list(snapshot.corrupt)) == (["b"], ("c",), ["a"])
        assert isinstance(snapshot.corrupt["a"], CorruptValue)

    async def test_damaged_bytes_among_many_small_values_are_told_apart(
        self, backend: Backend, store: Store, writer: Store
    ) -> None:
        """Stores read many small values together, and on another way than a large one."""
        good = {f"k{number:02}": envelope(f"k{number:02}", number, n=20) for number in range(30)}
        await write(writer, good)
        broken = {
            "k00": good["k00"][:-1],
            "k03": bytes(len(good["k03"])),
            "k11": good["k11"][:-1] + bytes([good["k11"][-1] ^ 1]),
            "k17": envelope("k17", 18, n=20),
            "k29": envelope("k28", 29, n=20),
        }
        for key, data in broken.items():
            await backend.overwrite("default", key, 1, data)
        snapshot = await store.read_many([*reversed(good), "never"])
        assert {key: bytes(each.data) for key, each in snapshot.entries.items()} == {
            key: data for key, data in good.items() if key not in broken
        }
        assert (set(snapshot.corrupt), snapshot.absent) == (set(broken), ("never",))
        defects = {key: each.facts["defect"] for key, each in snapshot.corrupt.items()}
        assert (defects["k11"], defects["k17"], defects["k29"]) == (
            "DigestMismatch", "OtherEnvelope", "WrongAddress",
        )  # fmt: skip

    async def test_a_corrupt_value_is_listed_and_can_be_replaced(
        self, backend: Backend, store: Store, writer: Store
    ) -> None:
        await write(writer, {"a": GOOD})
        await backend.overwrite("default", "a", 1, DAMAGE["last bit"][0])
        assert [s.key for s in await listed(store.scan())] == ["a"]
        assert len(await store.history("a")) == 1
        await put(writer, "a", expected=1)
        assert bytes((await store.read("a")).data) == envelope("a")
        await refused(CorruptValue, store.read("a", 1))

    async def test_an_older_version_outlives_the_corruption_of_a_newer(
        self, backend: Backend, store: Store, writer: Store
    ) -> None:
        await put(writer, "a")
        await write(writer, {"a": GOOD})
        await backend.overwrite("default", "a", 2, DAMAGE["zeroed"][0])
        await refused(CorruptValue, store.read("a"))
        assert bytes((await store.read("a", 1)).data) == envelope("a")

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

"""A live rho is not turned into a value without invariants by accident, whichever way the value comes."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from somactl import commit_matrix_update
from somactl.errors import KindRefused
from somactl.operations import commit as commit_operation
from somactl.operations.admission import Policy
from somactl.store.sqlite import SqliteStore
from tests.cli.conftest import Shell, density


def kind_of(shell: Shell, key: str = "a") -> str:
    return str(shell.ok("show", key, "-o", "json").json["key"]["kind"])


@pytest.mark.parametrize("kind", ["matrix", "sketch"])
def test_a_commit_asks_for_change_kind(shell: Shell, kind: str) -> None:
    shell.commit("a", density(4))
    shell.save("m.npy", np.ones((2, 4)))
    for words in (
        ["commit", "a=m.npy"],
        ["commit", "a=m.npy", "--dry-run"],
        ["commit", "new=m.npy", "a=m.npy"],
    ):
        refused = shell(*words, "--kind", kind, "-o", "json")
        assert (refused.code, refused.error["error"]) == (11, "KindRefused")
        assert "--change-kind" in refused.error["hint"]
    lines = json.dumps({"key": "a", "value": [[1.0, 2.0]]}).encode()
    assert shell("commit", "--kind", kind, stdin=lines).code == 11
    assert kind_of(shell) == "rho"
    done = shell.ok(
        "commit", "a=m.npy", "--kind", kind, "--change-kind", "--commit-id", "x", "-o", "json"
    ).json
    assert kind_of(shell) == kind
    shell.ok("commit", "a=m.npy", "--kind", kind)  # there is no rho any more
    assert shell.ok("restore", "a", "--version", "1").code == 0
    replayed = shell.ok("commit", "a=m.npy", "--kind", kind, "--commit-id", "x", "-o", "json").json
    assert (replayed["replayed"], replayed["version"]) == (True, done["version"])
    assert kind_of(shell) == "rho"


def test_a_restore_of_an_older_kind_asks_too_and_an_undo_does_not(shell: Shell) -> None:
    shell.commit("a", np.ones((2, 2)), "--kind", "matrix")
    made = shell.commit("a", density(4))
    assert shell("restore", "a", "--version", "1").code == 11
    shell.ok("restore", "--commit", made["commit_id"])
    assert kind_of(shell) == "matrix"
    shell.commit("a", density(4))
    shell.ok("restore", "a", "--version", "1", "--change-kind")
    assert kind_of(shell) == "matrix"


def test_a_rho_may_replace_anything_and_a_delete_needs_nothing(shell: Shell) -> None:
    shell.commit("a", np.ones((2, 2)), "--kind", "matrix")
    shell.commit("a", density(4))
    shell.ok("rm", "a")
    shell.commit("a", np.ones((2, 2)), "--kind", "matrix")


async def test_a_rho_that_comes_in_between_is_seen_by_the_store(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Another writer commits a rho after the kinds were looked at, and before the commit arrives."""
    store, other = SqliteStore(tmp_path / "s.db"), SqliteStore(tmp_path / "s.db")
    look = commit_operation._guards_of
    came = []

    async def then_another(*arguments):  # type: ignore[no-untyped-def]
        guards = await look(*arguments)
        if not came:
            came.append(None)
            came.append(await commit_matrix_update(other, {"a": np.eye(2) / 2}))
        return guards

    monkeypatch.setattr(commit_operation, "_guards_of", then_another)
    with pytest.raises(KindRefused):
        await commit_matrix_update(store, {"a": np.ones((2, 2))}, policy=Policy(kind="matrix"))
    assert (await store.head()).version == 1
    await asyncio.gather(store.close(), other.close())

"""`verify-psd --all --ledger FILE`: what audits know, in a file, for users who may only read the store."""

from __future__ import annotations

from typing import Any

from tests.cli.conftest import Shell, density


def audit(shell: Shell, *words: str) -> Any:
    result = shell(
        "verify-psd", "--all", "--incremental", "--recheck", "0%", "--ledger", "ledger", *words, "-o", "json"
    )
    assert result.code in (0, 4), result.err
    return result.json["coverage"]


def test_a_ledger_in_a_file_serves_all_namespaces(shell: Shell) -> None:
    for namespace, count in (("default", 2), ("other", 3)):
        for number in range(count):
            shell.commit(f"k{number}", density(4), "--namespace", namespace)
    assert [audit(shell)["changed"], audit(shell, "--namespace", "other")["changed"]] == [2, 3]
    assert [audit(shell)["changed"], audit(shell, "--namespace", "other")["changed"]] == [0, 0]
    shell.commit("k9", density(4))
    assert [audit(shell)["changed"], audit(shell, "--namespace", "other")["changed"]] == [1, 0]
    assert audit(shell)["kept_in"] == "ledger"


def test_a_file_that_holds_something_else_is_refused_before_any_work(shell: Shell) -> None:
    shell.commit("a", density(4))
    shell.write("ledger", "some: notes\n")
    result = shell("verify-psd", "--all", "--ledger", "ledger")
    assert result.code == 11
    assert "ledger: holds no notes of somactl, and is left as it is" in result.err
    assert (shell.folder / "ledger").read_text() == "some: notes\n"

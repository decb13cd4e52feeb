"""Nothing checked is never passed: commands that check end with 4, and say so, where nothing was there."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cli.conftest import Shell, density

NOTHING = [
    (["verify-psd", "--match", "typo*"], b""),
    (["verify-psd", "sketched"], b""),
    (["verify-psd", "--match", "sk*"], b""),
    (["migrate-json", "full.json", "--match", "typo*", "--dry-run"], b""),
    (["migrate-json", "-", "--dry-run"], b""),
]


@pytest.mark.parametrize(
    ("words", "stdin", "output"),
    [(*case, output) for case, output in zip(NOTHING, ["table", "json", "ndjson"] * 2, strict=False)],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_nothing_checked_is_incomplete_unless_it_was_expected(
    shell: Shell, words: list[str], stdin: bytes, output: str
) -> None:
    shell.commit("rho", density(4))
    shell.commit("sketched", np.ones((2, 4)), "--kind", "sketch")
    shell.write("full.json", '{"k": [[1.0, 0.0], [0.0, 0.0]]}')
    result = shell(*words, "-o", output, stdin=stdin)
    assert result.code == 4, (result.text, result.err)
    assert "--allow-empty" in result.text + result.err
    if output != "table":
        report = result.lines[-1] if output == "ndjson" else result.json
        assert not report["complete"]
    assert shell(*words, "--allow-empty", "-o", output, stdin=stdin).code == 0


def test_an_audit_of_a_whole_namespace_without_keys(shell: Shell) -> None:
    shell.commit("a", density(2))
    shell.ok("rm", "a")
    assert shell("verify-psd", "--all").code == 4
    assert shell("verify-psd", "--all", "--allow-empty").code == 0


def test_allow_empty_excuses_nothing_that_was_found(shell: Shell) -> None:
    shell.commit("a", density(2))
    assert shell("verify-psd", "missing", "--allow-empty").code == 4
    shell.save("bad.npy", np.diag([2.0, -1.0]))
    assert shell("verify-psd", "--file", "bad.npy", "--allow-empty").code == 3


def test_the_first_line_counts_what_was_skipped(shell: Shell) -> None:
    shell.commit("rho", density(4))
    shell.commit("s1", np.ones((2, 4)), "--kind", "sketch")
    shell.commit("s2", np.ones((2, 4)), "--kind", "sketch")
    shell.commit("m", np.ones((2, 2)), "--kind", "matrix")
    first = shell.ok("verify-psd", "--all").text.splitlines()[0]
    assert first.startswith("1 valid, 3 skipped (1 matrix, 2 sketch)")
    report = shell.ok("verify-psd", "--all", "-o", "json").json
    assert report["skipped_kinds"] == {"matrix": 1, "sketch": 2}
    shell.write("broken.json", "[[1,")
    mixed = shell("verify-psd", "--all", "--file", "broken.json").text.splitlines()
    assert mixed[0].startswith("1 valid, 1 rejected, 3 skipped")

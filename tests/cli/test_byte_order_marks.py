"""A byte order mark has one answer, whichever command reads the text: UTF-8's is passed over, no other."""

from __future__ import annotations

import pytest

from cli.conftest import Shell, density
from somactl.core.envelope import serialize_matrix
from somactl.core.framing import to_text

MATRIX = "[[0.5, 0.0], [0.0, 0.5]]"
BASE64 = to_text(serialize_matrix(density(2), key="k", kind="rho"))
LINES = f'{{"key": "k", "value": {MATRIX}}}\n'
READERS = {
    "commit file": (("commit", "k=-", "--dry-run"), MATRIX),
    "commit lines": (("commit", "--dry-run"), LINES),
    "commit base64": (("commit", "k=-", "--dry-run"), BASE64),
    "verify": (("verify-psd", "--file", "-"), MATRIX),
    "verify base64": (("verify-psd", "--file", "-"), BASE64),
    "migrate lines": (("migrate-json", "-", "--dry-run"), LINES.replace('"k"', '"old"')),
    "migrate value": (("migrate-json", "old=value", "--dry-run"), MATRIX),
    "migrate object": (("migrate-json", "old=value", "--dry-run", "--discover"), f'{{"rho": {MATRIX}}}'),
    "order text": (("prune", "--order-file", "-", "--dry-run"), "k\n"),
    "order list": (("prune", "--order-file", "-", "--dry-run"), '["k"]'),
}


@pytest.mark.parametrize("name", READERS)
def test_a_mark_of_utf_8_is_passed_over(shell: Shell, name: str) -> None:
    words, text = READERS[name]
    shell.commit("k", density(2))
    shell.write("value", text)
    plain = shell(*words, stdin=text.encode(), env={"SOMACTL_OUTPUT": "json"})
    shell.write("value", b"\xef\xbb\xbf" + text.encode())
    marked = shell(*words, stdin=b"\xef\xbb\xbf" + text.encode(), env={"SOMACTL_OUTPUT": "json"})
    assert marked.code == plain.code == 0, marked.err


@pytest.mark.parametrize("name", READERS)
def test_utf_16_is_refused_by_name(shell: Shell, name: str) -> None:
    words, text = READERS[name]
    shell.commit("k", density(2))
    data = text.encode("utf-16")
    shell.write("value", data)
    result = shell(*words, stdin=data)
    assert result.code == (3 if "old=value" in words else 11), result.err
    assert "UTF-16" in result.err + result.text

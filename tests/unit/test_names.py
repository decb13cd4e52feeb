"""`--match` patterns: what they match, and how many characters they look at to find out."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, strategies as st

from somactl.core.names import MAX_PATTERN, Pattern
from somactl.errors import UsageError


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("", "", True),
        ("*", "", True),
        ("?", "", False),
        ("a*", "a", True),
        ("a*a", "a", False),
        ("*a?c*", "xxabcxx", True),
        ("*ab*ab", "ab", False),
        ("*aab", "aaab", True),
        ("*aa?*aa?", "aabaa", False),
        ("*?b*", "bb", True),
        ("[ab]", "a", False),
        ("[ab]", "[ab]", True),
        (r"\*", "*", True),
        (r"\*", "x", False),
        ("a\\", "a\\", True),
        ("*\n*", "a\nb", True),
        ("?", "\U0001f600", True),
    ],
)
def test_what_a_pattern_matches(pattern: str, key: str, matches: bool) -> None:
    assert Pattern(pattern).matches(key) is matches


def expression(pattern: str) -> str:
    """The regular expression that means the same; it would take exponential time."""
    parts = re.findall(r"\\.|\\|[^\\]", pattern, re.DOTALL)
    return "".join({"*": ".*", "?": "."}.get(part) or re.escape(part[-1]) for part in parts)


@given(st.text("ab*?\\", max_size=9), st.text("ab*", max_size=12))
def test_it_matches_what_the_expression_does(pattern: str, key: str) -> None:
    assert Pattern(pattern).matches(key) == bool(re.fullmatch(expression(pattern), key, re.DOTALL))


class Counted(str):
    """A key that counts the characters that are asked of it."""

    looked_at = 0

    def find(self, text: str, start: Any = 0, end: Any = None) -> int:
        found = super().find(text, start, end)
        self.looked_at += (end if found < 0 else found + len(text)) - start
        return found

    def startswith(self, text: Any, start: Any = 0, end: Any = None) -> bool:
        self.looked_at += len(text)
        return super().startswith(text, start)

    def __getitem__(self, where: Any) -> str:
        part = super().__getitem__(where)
        self.looked_at += len(part)
        return part


EVIL = [
    "*a" * 13 + "*b",
    "*" + "a*" * 500 + "b",
    "*" * 1000 + "b*",
    "*" + "a" * 500 + "b*",
    "*" + "?a" * 250 + "b*",
    "*" + "a?" * 250 + "b",
    "*?" * 600 + "*b*",
    "?" * 1024 + "*b",
    "*a?" * 300 + "*b*a",
]


@pytest.mark.parametrize("pattern", EVIL, ids=[f"{pattern[:12]}x{len(pattern)}" for pattern in EVIL])
def test_no_character_is_looked_at_more_than_a_few_times(pattern: str) -> None:
    key = Counted("a" * 1024)
    assert not Pattern(pattern).matches(key)
    # Once by its own run, once where the next one, which is not there, looks for itself, and at both ends.
    assert key.looked_at <= 3 * len(key)


def test_a_run_of_any_length_costs_one_find() -> None:
    """`?` in a run sends it down the other way, which must find the same places."""
    key = "".join("ab"[i * i % 7 % 2] for i in range(300)) + "c"
    for start in range(0, 281, 7):
        part = key[start : start + 20]
        for hole in range(20):
            assert Pattern(f"*{part[:hole]}?{part[hole + 1 :]}*").matches(key)


def test_a_pattern_has_a_length() -> None:
    assert Pattern("\\a" * 1024 + "*" * (MAX_PATTERN - 2048)).matches("a" * 1024)
    with pytest.raises(UsageError, match=f"at most {MAX_PATTERN}"):
        Pattern("*" * (MAX_PATTERN + 1))

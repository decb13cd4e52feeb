"""`--match` patterns: what they match, and that none of them takes long."""

from __future__ import annotations

import re

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
def test_no_choice_is_taken_back(pattern: str) -> None:
    """Expressions that try every way to place the runs would be at it for years."""
    assert not Pattern(pattern).matches("a" * 1024)


def test_a_run_with_a_hole_is_found_wherever_it_is() -> None:
    key = "".join("ab"[i * i % 7 % 2] for i in range(300)) + "c"
    for start in range(0, 281, 7):
        part = key[start : start + 20]
        for hole in range(20):
            assert Pattern(f"*{part[:hole]}?{part[hole + 1 :]}*").matches(key)


def test_a_pattern_has_a_length() -> None:
    assert Pattern("\\a" * 1024 + "*" * (MAX_PATTERN - 2048)).matches("a" * 1024)
    with pytest.raises(UsageError, match=f"at most {MAX_PATTERN}"):
        Pattern("*" * (MAX_PATTERN + 1))

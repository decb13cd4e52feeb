"""Spellings of numbers, and the tokens that programs write where a number was lost.

One table for all who ask. Whether a value is a matrix at all (`legacy/values.py`) and what is wrong with it
(`json_pointer`, `legacy_json`) must agree on what is a damaged number, or a damage in one place would hide
the matrix, and the same damage in another be reported. Only JSON's own numbers are ever read as such.

Nothing here goes back over what it has passed: the quantifiers are possessive, and words are bounded.
"""

from __future__ import annotations

import re
from typing import Final

_NUMBER = (
    rb"(?:1\.?#[A-Za-z]{2,8}[0-9]?+"  # what Microsoft's C library printed: 1.#QNAN, 1.#INF, 1.#IND00
    rb"|0[xX][0-9a-fA-F_]++(?:\.[0-9a-fA-F]*+)?+(?:[pP][-+]?+[0-9]++)?+|0[oObB][0-7_]++"
    rb"|(?:[0-9][0-9_]*+(?:\.[0-9_]*+)?+|\.[0-9][0-9_]*+)(?:[eEdD][-+]?+[0-9]*+)?+)"  # "1e": cut off
)
_NOT_FINITE = rb"(?:(?i:[qs]?nan[qs]?(?:\([0-9A-Za-z]{0,16}\))?|inf(?:inity)?)|\xe2\x88\x9e)"
_REAL = rb"[-+]{0,2}(?:" + _NOT_FINITE + rb"|" + _NUMBER + rb")"
_COMPLEX = _REAL + rb"(?:\s?[-+]\s?(?:" + _NOT_FINITE + rb"|" + _NUMBER + rb")?)?\s?\*?[jJiI]"
_SPELLED = (
    rb"(?:\(\s?(?:" + _COMPLEX + rb"|" + _REAL + rb")\s?\)"
    rb"|" + _COMPLEX + rb"|" + _REAL + rb"(?:[lLfF]|[,/][0-9]{1,32})?)"
)
_TYPES = (
    rb"(?:(?:np|numpy|jnp|jax\.numpy|torch|tf|mpmath|decimal|fractions)\.[A-Za-z_][A-Za-z0-9_]{0,31}"
    rb"|float[0-9]{0,3}|u?int[0-9]{0,3}|complex[0-9]{0,3}|double|Decimal|Fraction|mpf|mpc|array|[tT]ensor)"
)
_CALL = rb"[-+]?" + _TYPES + rb"\(\s?\(?['\"]?" + _REAL + rb"[^()\[\]{}]{0,128}\){1,2}"
_CALLED_ANYTHING = rb"[-+]?[A-Za-z_][A-Za-z0-9_.]{0,63}\(\s?\(?['\"]?" + _REAL + rb"[^()\[\]{}]{0,128}\){1,2}"
_NOTHING = rb"(?i:none|null|nil|undefined|n/?a|nat|<na>|masked|missing|true|false)|-{1,3}|\*{1,32}|\?{1,3}"
_ENDS = rb"(?=\s*+(?:[\],}]|\Z)|\s*+[;:|]\s*+[-+.0-9\[]|\s++[-+.0-9])"  # numpy prints a row without commas
_BETWEEN_ROWS = (b";", b":", b"|")  # where a comma was

_IN_QUOTES = rb"\"\s*+(?:" + _SPELLED + rb"|" + _CALL + rb")\s*+\"|'\s*+(?:" + _SPELLED + rb")\s*+'"
_BARE = rb"(?:" + _CALLED_ANYTHING + rb"|" + _SPELLED + rb"|" + _NOTHING + rb")" + _ENDS

number_begins: Final = re.compile(rb"[-+]?\.?[0-9]|-|\]|\Z|" + _BARE + rb"|" + _IN_QUOTES).match
"""Whether a number, or what was one, begins the innermost list here. An empty list and the end of a text that
was cut off count: there may have been numbers behind them."""

_entry = re.compile(
    rb"\s*+(?:(?P<mark>[\[\],])|(?P<number>" + _BARE + rb"|(?:" + _IN_QUOTES + rb")" + _ENDS + rb")"
    rb"|(?P<word>\"(?:[^\"\\]++|\\.)*+\"" + _ENDS + rb"|[^\[\],{}]++))",
    re.DOTALL,
).match
_spelled_text = re.compile(rb"\s*+(?:" + _SPELLED + rb"|" + _CALL + rb")\s*+\Z").match
_token = re.compile(_BARE).match
_TWO_ROWS = re.compile(
    rb"\[\s*+ROW,\s*+ROW[],]".replace(
        b"ROW", rb"\[\s*+(?:" + _REAL + rb")\s*+(?:,\s*+(?:" + _REAL + rb")\s*+)*+\]\s*+"
    )
).match

MAX_COUNTED: Final = 1 << 16
"""Bytes in which entries are counted: what a list is shows at its beginning."""


def spells_a_number(text: str) -> bool:
    """Whether a string holds a number, in whatever spelling, and nothing else."""
    return _spelled_text(text[:256].encode("utf-8", "replace")) is not None


def damaged_token(text: bytes, at: int) -> str | None:
    """The token at `at` that some program writes for a number, where it is not one of JSON's."""
    found = _token(text, at)
    return found[0].decode("utf-8", "replace")[:40] if found else None


def two_rows_begin(text: bytes) -> bool:
    """Whether `text` begins with two whole rows of numbers, whatever follows."""
    return _TWO_ROWS(text) is not None


def rows_lost(text: bytes, start: int = 0) -> tuple[bool, int]:
    """Whether the list of lists at `start` is rows of numbers, some of them damaged; and where that was told.

    So they are if most of their entries are numbers, or were, and if they are no table: in that, each row
    begins with a word, or the first row has words alone. Words in quotes are damage only in rows of one
    length, and few. Where the damage stands decides nothing.
    """
    rows: list[list[bool]] = []
    quoted = 0
    depth, at, limit = 0, start, min(len(text), start + MAX_COUNTED)
    after = b"["
    while at < limit and (entry := _entry(text, at)) is not None:
        at = entry.end()
        mark = entry["mark"]
        if mark == b"[":
            depth += 1
            rows.append([])
        elif mark == b"]":
            depth -= 1
            if depth <= 0:
                break
        elif mark is None:
            if after == b"]" and entry[0].strip() in _BETWEEN_ROWS:
                continue
            if depth < 2 or after == b"]":
                return False, at
            rows[-1].append(entry["number"] is not None)
            quoted += (entry["word"] or b"").startswith(b'"')
        after = mark or b"."
    rows = [row for row in rows if row]
    return _mostly_numbers(rows) and (not quoted or _even(rows)), at


def _mostly_numbers(rows: list[list[bool]]) -> bool:
    numbers, entries = sum(map(sum, rows)), sum(map(len, rows))
    return 2 * numbers > entries and any(row[0] for row in rows) and any(rows[0])


def _even(rows: list[list[bool]]) -> bool:
    numbers, entries = sum(map(sum, rows)), sum(map(len, rows))
    return len(rows) > 1 and len(set(map(len, rows))) == 1 and 4 * numbers >= 3 * entries

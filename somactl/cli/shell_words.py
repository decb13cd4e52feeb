"""Split a command line that is still being typed, and quote a completion of its last word for bash."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_SAFE = re.compile(r"[\w@%+=:,./-]", re.ASCII)


@dataclass(slots=True)
class Word:
    """One word as far as it is typed.

    value  what the shell makes of it
    quote  the quote that is still open, or ""
    start  how much of `value` stands before the part that bash is going to replace
    """

    value: str = ""
    quote: str = ""
    start: int = 0


def typed_words(line: str, breaks: str = "") -> list[Word]:
    """The words of `line`, which ends at the cursor; the last one is being typed, and may be empty.

    breaks: the characters at which bash begins what it replaces (COMP_WORDBREAKS).
    """
    words, in_word = [Word()], False
    characters = iter(line)
    for character in characters:
        word = words[-1]
        if word.quote:
            _quoted(word, character, characters)
        elif character in " \t\n":
            words += [Word()] if in_word else []
            in_word = False
        else:
            in_word = True
            _unquoted(word, character, characters, breaks)
    if not in_word and words[-1].value:
        words.append(Word())
    return words


def _unquoted(word: Word, character: str, following: Iterator[str], breaks: str) -> None:
    if character in "'\"":
        word.quote, word.start = character, len(word.value)
        return
    word.value += next(following, "") if character == "\\" else character
    if character in breaks and character != "\\":
        word.start = len(word.value)


def _quoted(word: Word, character: str, following: Iterator[str]) -> None:
    if character == word.quote:
        word.quote = ""
    elif character == "\\" and word.quote == '"':
        escaped = next(following, "")
        word.value += escaped if escaped in '"\\$`' else character + escaped
    else:
        word.value += character


def continued(word: Word, value: str) -> str | None:
    """What takes the place of the end of `word`, so that the shell reads `value`; None where nothing can."""
    rest = value[word.start :]
    if word.quote == "'":
        return rest.replace("'", "'\\''")
    if word.quote == '"':
        # In double quotes, nothing keeps bash from looking up its history at an exclamation mark.
        return None if "!" in rest else re.sub(r'([\\"$`])', r"\\\1", rest)
    return "".join(c if _SAFE.match(c) or ord(c) > 127 else f"\\{c}" for c in rest)

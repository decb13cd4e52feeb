"""Split a command line that is still being typed, and quote a completion of its last word for bash."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

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


@dataclass(slots=True)
class _Reader:
    breaks: str
    words: list[Word] = field(default_factory=lambda: [Word()])
    in_word: bool = False

    def read(self, line: str) -> list[Word]:
        characters = iter(line)
        for character in characters:
            self._take(character, characters)
        if not self.in_word and self.words[-1].value:
            self.words.append(Word())
        return self.words

    def _take(self, character: str, following: Iterator[str]) -> None:
        word = self.words[-1]
        if word.quote:
            self._quoted(word, character, following)
        elif character == "\\":
            self.in_word = True
            word.value += next(following, "")
        elif character in "'\"":
            self.in_word = True
            word.quote, word.start = character, len(word.value)
        elif character in " \t\n":
            if self.in_word:
                self.words.append(Word())
            self.in_word = False
        else:
            self.in_word = True
            word.value += character
            if character in self.breaks:
                word.start = len(word.value)

    def _quoted(self, word: Word, character: str, following: Iterator[str]) -> None:
        if character == word.quote:
            word.quote = ""
        elif character == "\\" and word.quote == '"':
            escaped = next(following, "")
            word.value += escaped if escaped in '"\\$`' else character + escaped
        else:
            word.value += character


def typed_words(line: str, breaks: str = "") -> list[Word]:
    """The words of `line`, which ends at the cursor; the last one is being typed, and may be empty.

    breaks: the characters at which bash begins what it replaces (COMP_WORDBREAKS).
    """
    return _Reader(breaks).read(line)


def continued(word: Word, value: str) -> str | None:
    """What takes the place of the end of `word`, so that the shell reads `value`; None where nothing can."""
    rest = value[word.start :]
    if word.quote == "'":
        return rest.replace("'", "'\\''")
    if word.quote == '"':
        # In double quotes, nothing keeps bash from looking up its history at an exclamation mark.
        return None if "!" in rest else re.sub(r'([\\"$`])', r"\\\1", rest)
    return "".join(c if _SAFE.match(c) or ord(c) > 127 else f"\\{c}" for c in rest)

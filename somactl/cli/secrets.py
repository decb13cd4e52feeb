"""Refuse passwords in URLs on the command line, and keep addresses out of messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from somactl.address import is_address
from somactl.errors import SecretExposed

HIDDEN = "(an address, not shown)"
_LOGIN = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/@]*:[^\s@]+@", re.IGNORECASE)
"""Of whatever scheme: an installed package may open stores by its own."""

_JUDGED = ("--store", "--cache", "--metadata", "--source")


def refuse_exposed(argv: Sequence[str]) -> None:
    """Raise SecretExposed for a URL with a password that stands among the words of a command.

    It would be taken for a key or a file and then be named in messages. Where a URL belongs it is judged as
    one, and what metadata say is their author's business.
    """
    if "migrate-json" in argv:
        return
    for before, word in zip(("", *argv), argv, strict=False):
        if not word.startswith("-") and before not in _JUDGED and _LOGIN.search(word):
            raise SecretExposed(
                "a URL with a password stands on the command line, which is visible to every process",
                hint="put the URL into SOMACTL_STORE or SOMACTL_CACHE, and change the password",
            )


def without_addresses(message: str, words: Iterable[str]) -> str:
    """`message`, with every one of `words` that is meant as an address, or ends in one, left out."""
    found = {part for word in words for part in (word, word.partition("=")[2]) if is_address(part)}
    for word in sorted(found, key=len, reverse=True):
        for spelling in (word, repr(word)[1:-1]):
            message = message.replace(spelling, HIDDEN)
    return message

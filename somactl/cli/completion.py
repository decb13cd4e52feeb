"""Shell completion: candidates for the word at the cursor, for the scripts in `shells/`.

Commands, flags and choices come from the parser; namespaces, keys and commit ids from the store, which is
only read. A store that is away, wrongly configured or slow has nothing to offer, and says nothing.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from typer._click.shell_completion import _resolve_context, _resolve_incomplete

from somactl import config
from somactl.cli.app import build
from somactl.cli.command import COMMON
from somactl.cli.pages import Page
from somactl.config import OUTPUTS, Settings
from somactl.store.contract import Store
from somactl.suggestion import printable

SECONDS = 2.0
"""A person waits for no longer than that, and neither does a shell."""
MOST = 500


@dataclass(frozen=True, slots=True)
class Answer:
    """mode: words, open (more of the same word follows) or files (the shell knows better)."""

    mode: str
    words: Sequence[str] = ()


def complete(arguments: Sequence[str]) -> int:
    """Print the answer for `bash BREAKS LINE`, `zsh WORD... WORD` or `fish WORD... TYPED`. Always 0."""
    signal.signal(signal.SIGALRM, lambda number, frame: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    shell, *rest = arguments or [""]
    if shell == "bash" and len(rest) == 2:
        before, word = before_cursor(typed_words(rest[1], rest[0]))
    elif shell == "fish" and rest:
        before, word = rest[:-1], typed_words(rest[-1])[-1]
    elif shell == "zsh" and rest:
        before, word = rest[:-1], Word(rest[-1])
    else:
        return 0
    answer = candidates(before, word.value)
    words = [value for value in answer.words if printable(value) == value]
    if shell == "bash":
        words = [insert for value in words if (insert := continued(word, value)) is not None]
    sys.stdout.write("".join(f"{line}\n" for line in (answer.mode, *words)))
    sys.stdout.flush()
    return 0


def before_cursor(words: list[Word]) -> tuple[list[str], Word]:
    """The words after the program's name; assignments before it are none of somactl's."""
    names = [word.value for word in words]
    at = next((i for i, name in enumerate(names) if not re.match(r"[A-Za-z_]\w*=", name)), 0)
    return names[at + 1 : -1], words[-1]


def candidates(before: Sequence[str], typed: str) -> Answer:
    """What the word that begins with `typed` could be, after the words `before`."""
    parser: Any = build()
    commands = parser.list_commands(None)
    try:
        context = _resolve_context(parser, {}, "somactl", list(before))
        place, value = _resolve_incomplete(context, list(before), typed)
    except Exception:  # the line is wrong already, and will be told when it is run
        return Answer("words")
    if place is parser:
        if context._protected_args:  # a command that there is not
            return Answer("words")
        names = [name for name in commands if name.startswith(typed)]
        return Answer("words", names or [item.value for item in place.shell_complete(context, value)])
    if place is context.command:
        return Answer("words", [item.value for item in place.shell_complete(context, value)])
    found = _values(context, place, value)
    given = typed[: len(typed) - len(value)]  # `--output=` of `--output=js`
    return replace(found, words=[given + word for word in found.words])


def _values(context: Any, parameter: Any, typed: str) -> Answer:
    """Values of an option or argument."""
    if parameter.name == "output":
        return Answer("words", [mode for mode in OUTPUTS if mode.startswith(typed)])
    if parameter.name == "topic":
        return Answer("words", _beginning(typed, Page.topics()))
    choices = [item.value for item in parameter.shell_complete(context, typed) if item.type == "plain"]
    if choices:
        return Answer("words", choices)
    if parameter.name == "puts" and "=" not in typed:
        return Answer("open", [f"{key}=" for key in _from_store(context, _keys, typed)])
    if parameter.name in STORED:
        return Answer("words", _from_store(context, STORED[parameter.name], typed))
    takes_file = re.search(r"FILE|PLAN|SOURCE", parameter.metavar or "")
    return Answer("files" if takes_file else "words")


def _from_store(
    context: Any, find: Callable[[Any, Store, str], Awaitable[list[str]]], typed: str
) -> list[str]:
    """What the store that the command line names has to offer; nothing where it cannot be asked."""
    import asyncio

    from somactl.runtime import open_store

    async def ask(settings: Settings) -> list[str]:
        async with open_store(settings, read_only=True) as store:
            return await find(context, store, typed)

    try:
        found = asyncio.run(ask(_settings(context)))
    except Exception:
        return []
    # More than are shown: the word itself is among them, so that no shell takes what these have in common.
    return found if len(found) <= MOST else [*found[:MOST], typed]


def _settings(context: Any) -> Settings:
    """Of the options before and after the command, without a cache: the authority knows every key."""
    chain = [context]
    while chain[0].parent is not None:
        chain.insert(0, chain[0].parent)
    given = {name: each.params[name] for each in chain for name in COMMON if each.params.get(name)}
    return replace(config.load(given), cache="", retry_seconds=0.0)


async def _namespaces(context: Any, store: Store, typed: str) -> list[str]:
    return _beginning(typed, (each.head.namespace for each in await store.namespaces()))


async def _keys(context: Any, store: Store, typed: str) -> list[str]:
    """Keys in byte order; where history is what is asked for, deleted ones too."""
    pattern = re.sub(r"([*?\\])", r"\\\1", typed) + "*"
    found: list[str] = []
    for deleted in (False, True) if context.info_name in ("restore", "log") else (False,):
        async for page in store.scan(pattern, deleted=deleted, page_keys=MOST):
            found += [stat.key for stat in page]
            if len(found) > MOST:
                return found
    return found


async def _commits(context: Any, store: Store, typed: str) -> list[str]:
    return _beginning(typed, (record.commit_id for record in await store.log(limit=MOST)))


def _beginning(typed: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(typed)]


async def _migrations(context: Any, store: Store, typed: str) -> list[str]:
    from somactl.legacy.journal import recorded

    return _beginning(typed, (each.migration for each in await recorded(store)))


STORED: dict[str, Callable[[Any, Store, str], Awaitable[list[str]]]] = {
    "namespace": _namespaces,
    "key": _keys,
    "keys": _keys,
    "commit": _commits,
    "commit_id": _commits,
    "migration": _migrations,
}
"""Parameters whose values stand in the store, by the name that every command gives them."""


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

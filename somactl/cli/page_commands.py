"""Fill store, namespace and key into the commands of a page, so that they can be pasted as they are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from functools import cache
from typing import Any

from somactl.cli.suggest import command_line, quote
from somactl.suggestion import Suggestion

_BLOCK = re.compile(r"(^[ ]*```sh\n)(.*?)(^[ ]*```)", re.M | re.S)
_SPAN = re.compile(r"`(somactl [^`\n]+)`")
_CALL = re.compile(r"(?<![\w./-])somactl (?:'[^']*'|\"[^\"]*\"|[^|;&<>#()\n])*[^|;&<>#()\s]")
"""One call in a line of shell, up to what ends it: a pipe, a redirection, a comment."""


def fill(text: str, values: Mapping[str, str], shared: Mapping[str, str]) -> str:
    """The page with `values` for the words in capitals that stand for them, in blocks of `sh` and in code
    that begins with `somactl`; each call of somactl there gets the options `shared` it has not."""
    if not values and not shared:
        return text
    filled = _Filled(values, shared)
    text = _BLOCK.sub(lambda m: m[1] + filled.lines(m[2]) + m[3], text)
    return _SPAN.sub(lambda m: f"`{filled.lines(m[1])}`", text)


class _Filled:
    def __init__(self, values: Mapping[str, str], shared: Mapping[str, str]) -> None:
        self.values, self.shared = values, shared
        names = "|".join(map(re.escape, values))
        self.names = re.compile(rf"(?<![\w$])(?:{names})(?!\w)" if names else r"(?!)")

    def lines(self, shell: str) -> str:
        """Calls of somactl are built anew; in other commands the words alone are replaced."""
        parts, end = [], 0
        for call in _CALL.finditer(shell):
            parts += [self._replace(shell[end : call.start()], quote), self._call(call[0])]
            end = call.end()
        return "".join([*parts, self._replace(shell[end:], quote)])

    def _call(self, line: str) -> str:
        try:
            words = shlex.split(line)[1:]
        except ValueError:
            return line
        call = parsed(words)
        if call is None:
            return line
        arguments = tuple(self._replace(word, str) for word in call.arguments)
        options = tuple((name, self._value(value)) for name, value in call.options)
        return command_line(Suggestion(call.command, arguments, options), self.shared)

    def _value(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._value(part) for part in value]
        return self._replace(value, str) if isinstance(value, str) else value

    def _replace(self, text: str, how: Any) -> str:
        return self.names.sub(lambda m: str(how(self.values[m[0]])), text)


def parsed(words: list[str]) -> Suggestion | None:
    """The call as a suggestion; None for one that names no command, or an option that the command has not."""
    command = next((name for name in (" ".join(words[:2]), *words[:1]) if _options_of(name)), None)
    if command is None:
        return None
    known = _options_of(command)
    arguments: list[str] = []
    options: dict[str, Any] = {}
    rest = iter(words[len(command.split()) :])
    for word in rest:
        if word == "--":
            arguments += rest
        elif not word.startswith("-") or word == "-":
            arguments.append(word)
        else:
            flag, equals, value = word.partition("=")
            if flag not in known:
                return None
            name, takes_value, repeats = known[flag]
            found: Any = (value if equals else next(rest, "")) if takes_value else True
            options[name] = [*options.get(name, []), found] if repeats else found
    return Suggestion(command, tuple(arguments), tuple(options.items()))


@cache
def _options_of(command: str) -> dict[str, tuple[str, bool, bool]]:
    """By flag: the option's name, whether it takes a value, and whether it may be repeated; empty for a word
    that is no command."""
    from somactl.cli.app import COMMANDS, build

    if command not in COMMANDS:
        return {}
    parser: Any = build()
    for word in command.split():
        parser = parser.commands[word]
    found = {"--help": ("help", False, False)}
    for parameter in parser.params:
        if parameter.param_type_name == "option":
            facts = (parameter.name, not parameter.is_flag, parameter.multiple)
            found |= dict.fromkeys([*parameter.opts, *parameter.secondary_opts], facts)
    return found

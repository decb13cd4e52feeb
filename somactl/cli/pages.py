"""The pages that are shipped with somactl: how one is found by a topic, a code or an error's name, and how
its commands become those of one store, namespace and key, which an operator can paste at once.
"""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from somactl import errors
from somactl.config import TOLERANCES
from somactl.core.verdict import INVARIANTS, Invariant
from somactl.package_data import data_file
from somactl.report import EXIT_CODES
from somactl.suggestion import Suggestion, command_line, quote

FOLDERS = ("RUNBOOKS", "docs")


@dataclass(frozen=True, slots=True)
class Page:
    """One page: `name` as a file of the package, and its Markdown."""

    name: str
    text: str

    @staticmethod
    def topics() -> Iterator[str]:
        """Every word that `find` knows, pages first."""
        yield from (path.stem for _, path in _shipped())
        yield from map(str, sorted(EXIT_CODES))
        yield from sorted(error_classes())
        yield from (invariant.name for invariant in INVARIANTS)


def _shipped() -> Iterator[tuple[str, Path]]:
    """The folder and the file of each page, in the order of their names in each folder."""
    for folder in FOLDERS:
        for path in sorted(data_file(folder).glob("*.md")):
            if path.stem != "README":
                yield folder, path


def find(topic: str) -> Page | None:
    """The page about `topic`, whatever its case; None where there is none."""
    wanted = topic.removesuffix(".md").rpartition("/")[2].lower()
    for folder, path in _shipped():
        if path.stem.lower() == wanted:
            return Page(f"{folder}/{path.name}", path.read_text(encoding="utf-8"))
    if wanted.isdecimal() and int(wanted) in EXIT_CODES:
        return _code(int(wanted))
    for invariant in INVARIANTS:
        if invariant.name == wanted:
            return Page("docs/INVARIANTS.md", invariant_page(invariant))
    kind = next((c for name, c in error_classes().items() if name.lower() == wanted), None)
    return None if kind is None else _error(kind)


def index() -> str:
    """What can be asked for."""
    lines = ["Runbooks and documents: somactl explain TOPIC", ""]
    for _, path in _shipped():
        title = path.read_text(encoding="utf-8").partition("# ")[2].partition("\n")[0]
        lines.append(f"  {path.stem:<20} {title}")
    lines += ["", "Exit codes: somactl explain CODE", ""]
    lines += [f"  {code:<20} {EXIT_CODES[code]}" for code in sorted(EXIT_CODES)]
    lines += ["", "Errors: somactl explain NAME", ""]
    lines += [f"  {name:<20} exit code {c.exit_code}" for name, c in sorted(error_classes().items())]
    lines += ["", "Invariants: somactl explain NAME", ""]
    lines += [f"  {each.name:<20} {each.holds}" for each in INVARIANTS]
    return "\n".join(lines)


def invariant_page(invariant: Invariant) -> str:
    """What must hold, how it is measured, what is allowed for, and what a refusal is called."""
    lines = [f"# {invariant.name}", "", invariant.holds, ""]
    field = f"; the field `{invariant.name}_error` of a verdict" if invariant.measure else ""
    lines += [f"- Measured: `{invariant.symbol}`{field}."] if invariant.symbol else []
    if invariant.tolerance is not None:
        setting = TOLERANCES[f"{invariant.name}_tolerance"]
        told = f"{setting.effect}, {setting.default} unless said otherwise"
        lines.append(f"- Tolerance: `{setting.flag}`, `{setting.variable}`: {told}.")
    refusal = invariant.error
    lines.append(f"- Refused with `{refusal.__name__}`, exit code {refusal.exit_code}.")
    return "\n".join(lines)


def error_classes() -> dict[str, type[errors.SomactlError]]:
    """The tree of errors, by name."""
    found = (c for _, c in inspect.getmembers(errors, inspect.isclass))
    return {c.__name__: c for c in found if issubclass(c, errors.SomactlError)}


def _code(code: int) -> Page:
    names = sorted(name for name, c in error_classes().items() if c.exit_code == code)
    runbooks = sorted({c.runbook for c in error_classes().values() if c.exit_code == code and c.runbook})
    lines = [f"# Exit code {code}", "", f"{EXIT_CODES[code][0].upper()}{EXIT_CODES[code][1:]}."]
    lines += ["", "Errors that end with it: " + ", ".join(names) + "."] if names else []
    lines += ["", *(f"    somactl explain {page}" for page in runbooks)] if runbooks else []
    return Page("docs/EXIT_CODES.md", "\n".join(lines))


def _error(kind: type[errors.SomactlError]) -> Page:
    own = inspect.cleandoc(kind.__doc__ or "") or f"{EXIT_CODES[kind.exit_code]}."
    again = (
        "The same call may succeed if it is made again" if kind.retryable else "Repeating it does not help"
    )
    lines = [f"# {kind.__name__}", "", own, ""]
    lines += [f"Exit code {kind.exit_code}: {EXIT_CODES[kind.exit_code]}. {again}."]
    page = find(kind.runbook) if kind.runbook else None
    if page is None:
        return Page("docs/EXIT_CODES.md", "\n".join(lines))
    return Page(page.name, "\n".join([*lines, "", page.text]))


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

"""The configuration file, TOML or YAML: settings and their values, as text.

What is wrong with it is told by its line. Nothing of what was not understood is quoted: it may be a password.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from somactl.errors import ConfigurationError

if TYPE_CHECKING:
    from somactl.core.strict_yaml import YamlError

MOST_BYTES = 1 << 16
"""A configuration has a dozen lines; what is longer is another file."""
YAML_ENDINGS = (".yaml", ".yml")
_LINE = re.compile(r"\(at line (\d+), column (\d+)\)")
_NAME = re.compile(r"[A-Za-z]+([-_][A-Za-z]+){0,4}\Z")
_NO_PAIRS = "this is no list of NAME: VALUE"


def read_file(path: str | None, known: Collection[str], switches: Collection[str] = ()) -> dict[str, str]:
    """What the file at `path` sets, YAML where its name ends so and else TOML; nothing without a path.

    Raises ConfigurationError for a file that cannot be read, and for a setting that is not in `known`, is
    given twice, or is neither text nor a number; one of the `switches` may also be true or false.
    """
    if path is None:
        return {}
    what = f"configuration file {path if path.isprintable() else repr(path)}"
    try:
        text = _content(path, what).decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{what} is no UTF-8 text, from byte {exc.start} on") from None
    read = _yaml if path.lower().endswith(YAML_ENDINGS) else _toml
    table = dict(read(text, what, switches))
    for name in table:
        if name not in known:
            raise _unknown(name, what, known)
    return table


def _content(path: str, what: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as exc:
        raise ConfigurationError(f"{what}: {exc.strerror}") from None
    except ValueError:
        raise ConfigurationError(f"{what}: its name holds a NUL character") from None
    if len(data) > MOST_BYTES:
        raise ConfigurationError(f"{what} is larger than {MOST_BYTES >> 10} KiB: it is no configuration")
    return data


def _toml(text: str, what: str, switches: Collection[str]) -> Iterator[tuple[str, str]]:
    import tomllib

    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise ConfigurationError(f"{what} is not TOML: it is nested too deeply") from None
    except ValueError as exc:
        line = _LINE.search(str(exc))
        where = f"at line {line[1]}, column {line[2]}" if line else "at its end"
        raise ConfigurationError(
            f"{what} is not TOML {where}", hint='write NAME = "VALUE", each NAME once, a line for each'
        ) from None
    for name, value in table.items():
        truth = isinstance(value, bool) and name not in switches
        if truth or not isinstance(value, str | int | float):
            raise _neither(name, what)
        yield name, str(value)


def _yaml(text: str, what: str, switches: Collection[str]) -> Iterator[tuple[str, str]]:
    """The pairs of one flat mapping, as text."""
    from somactl.core.strict_yaml import Mapping, Scalar, YamlError, parse_yaml

    try:
        root = parse_yaml(text, deepest=1, most=MOST_BYTES)
    except YamlError as exc:
        raise _no_yaml(exc, what) from None
    if root is None:
        return
    if not isinstance(root, Mapping):
        raise ConfigurationError(f"{what}, line {root.line}: {_NO_PAIRS}")
    for name, value in root.fields.items():
        if not isinstance(value, Scalar) or not (value.is_text or name in switches):
            raise _neither(name, f"{what}, line {value.line}")
        yield name, value.text


def _no_yaml(error: YamlError, what: str) -> ConfigurationError:
    place = f"{what}, line {error.line}"
    if error.problem == "syntax":
        return ConfigurationError(f"{what} {error}", hint="write NAME: VALUE, a line for each")
    if error.problem == "documents":
        return ConfigurationError(f"{what} holds several documents", hint="keep one of them")
    if error.problem == "twice":
        return ConfigurationError(f"{place}: a setting is given twice", hint="keep one of them")
    if error.problem == "name":
        return ConfigurationError(f"{place}: this is no name of a setting")
    return _neither(error.field, place) if error.field else ConfigurationError(f"{place}: {_NO_PAIRS}")


def _neither(name: str, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"{what}: {_shown(name) or 'a setting'} is neither text nor a number",
        hint='write a text in quotes: ""',
    )


def _unknown(name: str, what: str, known: Collection[str]) -> ConfigurationError:
    import difflib

    close = difflib.get_close_matches(name.lower().replace("-", "_"), known, 1, 0.7)
    return ConfigurationError(
        f"{what}: unknown setting {_shown(name)}".rstrip(),
        hint=f"did you mean {close[0]}?" if close else f"known settings: {', '.join(known)}",
    )


def _shown(name: str) -> str:
    """A name that is a word, and surely no value that lost its name; else nothing."""
    return repr(name) if _NAME.match(name) and len(name) <= 40 else ""

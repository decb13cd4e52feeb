"""The configuration file, TOML or YAML: settings and their values, as text.

What is wrong with it is told by its line. Nothing of what was not understood is quoted: it may be a password.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from somactl.errors import ConfigurationError

MOST_BYTES = 1 << 16
"""A configuration has a dozen lines; what is longer is another file."""
YAML_ENDINGS = (".yaml", ".yml")
_LINE = re.compile(r"\(at line (\d+), column (\d+)\)")
_NAME = re.compile(r"[A-Za-z]+([-_][A-Za-z]+){0,4}\Z")
_NO_TEXT = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:merge")


def read_file(path: str | None, known: Collection[str]) -> dict[str, str]:
    """What the file at `path` sets, YAML where its name ends so and else TOML; nothing without a path.

    Raises ConfigurationError for a file that cannot be read, and for a setting that is not in `known`, is
    given twice, or is neither text nor a number.
    """
    if path is None:
        return {}
    what = f"configuration file {path if path.isprintable() else repr(path)}"
    try:
        text = _content(path, what).decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{what} is no UTF-8 text, from byte {exc.start} on") from None
    read = _yaml if path.lower().endswith(YAML_ENDINGS) else _toml
    table = dict(read(text, what))
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


def _toml(text: str, what: str) -> Iterator[tuple[str, str]]:
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
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise _neither(name, what)
        yield name, str(value)


def _yaml(text: str, what: str) -> Iterator[tuple[str, str]]:
    """The pairs of one flat mapping.

    The document is read as events: nothing is built from it but text as it stands there (`1e-8` is a text to
    YAML 1.1), and nothing that is nested, has a tag or refers to something else is read on.
    """
    import yaml

    try:
        loader: Any = yaml.SafeLoader(text)  # whose stubs leave its methods untyped
        try:
            yield from _pairs(loader, what)
        finally:
            loader.dispose()
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f"at line {mark.line + 1}, column {mark.column + 1}" if mark else "in its characters"
        raise ConfigurationError(
            f"{what} is not YAML {where}", hint="write NAME: VALUE, a line for each"
        ) from None


def _pairs(loader: Any, what: str) -> Iterator[tuple[str, str]]:
    from yaml import events as kinds

    while loader.check_event(kinds.StreamStartEvent, kinds.DocumentStartEvent):
        loader.get_event()
    if loader.check_event(kinds.StreamEndEvent) or _is_empty(loader):
        return
    if not isinstance(first := loader.get_event(), kinds.MappingStartEvent) or first.tag:
        raise ConfigurationError(f"{what}, line {_line(first)}: this is no list of NAME: VALUE")
    seen: set[str] = set()
    while not loader.check_event(kinds.MappingEndEvent):
        key, value = loader.get_event(), loader.get_event()
        if not isinstance(key, kinds.ScalarEvent) or key.tag:
            raise ConfigurationError(f"{what}, line {_line(key)}: this is no name of a setting")
        if key.value in seen:
            raise ConfigurationError(
                f"{what}, line {_line(key)}: a setting is given twice", hint="keep one of them"
            )
        seen.add(key.value)
        if not _is_text(loader, value):
            raise _neither(key.value, f"{what}, line {_line(value)}")
        yield key.value, value.value
    loader.get_event()
    loader.get_event()
    if not loader.check_event(kinds.StreamEndEvent):
        raise ConfigurationError(f"{what} holds several documents", hint="keep one of them")


def _is_empty(loader: Any) -> bool:
    """Whether the document holds comments alone."""
    event = loader.peek_event()
    return not getattr(event, "value", "mapping") and not event.tag


def _is_text(loader: Any, event: Any) -> bool:
    """Whether it is a text or a number, and not `null`, `yes` or anything but a scalar."""
    from yaml import ScalarEvent, ScalarNode

    if not isinstance(event, ScalarEvent) or event.tag:
        return False
    return loader.resolve(ScalarNode, event.value, event.implicit) not in _NO_TEXT


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


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

"""YAML as people write settings in it, strictly: text, lists and mappings, each by its line.

Nothing is built but text as it stands there: to YAML 1.1 `1e-8` is a text, `007` is 7 and `no` is false, so
each reader says itself what it takes for a number. A name given twice, a tag, an alias and a second
document are refused, and what nests deeper than the reader allows is not read on.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import msgspec

Problem = Literal["syntax", "documents", "twice", "name", "value", "size", "unknown", "missing"]

_TAG = "tag:yaml.org,2002:"


class YamlError(Exception):
    """What is wrong with a document, without a word of what was not understood: it may be a secret.

    The message is what follows `FILE, line N: `. line counts from 1, and is 0 where it is not known; field
    is the name that the innermost mapping gives to what is wrong, if it has one.
    """

    def __init__(
        self, message: str, problem: Problem, line: int, *, field: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.problem, self.line, self.field, self.hint = problem, line, field, hint


class Scalar(msgspec.Struct, frozen=True):
    """One value, as it is written. `is_text` is false for what YAML takes for null, true or false."""

    line: int
    text: str
    quoted: bool
    is_text: bool


class Listing(msgspec.Struct, frozen=True):
    line: int
    items: list[Node]


class Mapping(msgspec.Struct, frozen=True):
    line: int
    fields: dict[str, Node]

    def refuse_other_fields(self, required: Collection[str], optional: Collection[str] = ()) -> None:
        """Raises YamlError for a field that is unknown, and for one that is missing."""
        known = [*required, *optional]
        for name, node in self.fields.items():
            if name not in known:
                raise YamlError(
                    "unknown field",
                    "unknown",
                    node.line,
                    field=name,
                    hint=f"known fields: {', '.join(known)}",
                )
        for name in required:
            if name not in self.fields:
                raise YamlError(f"`{name}` is missing", "missing", self.line, field=name)


Node = Scalar | Listing | Mapping


def parse_yaml(text: str, *, deepest: int, most: int) -> Node | None:
    """The one document in `text`; None where it holds comments alone.

    deepest is how far lists and mappings may nest (1: none in another), most how many values there may be;
    the reader bounds the size of `text` itself. Raises YamlError.
    """
    import yaml

    try:
        loader: Any = yaml.SafeLoader(text)  # whose stubs leave its methods untyped
        try:
            return _Builder(loader, deepest, most).document()
        finally:
            loader.dispose()
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        if mark is None:
            raise YamlError("is not YAML in its characters", "syntax", 0) from None
        where = f"at line {mark.line + 1}, column {mark.column + 1}"
        raise YamlError(f"is not YAML {where}", "syntax", mark.line + 1) from None


class _Builder:
    """Makes nodes of the events of a document, one after another."""

    def __init__(self, loader: Any, deepest: int, most: int) -> None:
        from yaml import events

        self._loader, self._deepest, self._left, self._kinds = loader, deepest, most, events

    def document(self) -> Node | None:
        loader, kinds = self._loader, self._kinds
        while loader.check_event(kinds.StreamStartEvent, kinds.DocumentStartEvent):
            loader.get_event()
        if loader.check_event(kinds.StreamEndEvent):
            return None
        event = loader.peek_event()
        is_empty = isinstance(event, kinds.ScalarEvent) and not event.value and not event.tag
        root = self._node(None, self._deepest)
        loader.get_event()
        if not loader.check_event(kinds.StreamEndEvent):
            raise YamlError("holds several documents", "documents", _line(loader.peek_event()))
        return None if is_empty else root

    def _node(self, field: str | None, depth: int) -> Node:
        event, kinds = self._loader.get_event(), self._kinds
        self._left -= 1
        if self._left < 0:
            raise YamlError("more values than are read", "size", _line(event))
        if isinstance(event, kinds.AliasEvent) or event.tag:
            raise YamlError("aliases and tags are not read", "value", _line(event), field=field)
        if isinstance(event, kinds.ScalarEvent):
            return self._scalar(event)
        if not depth:
            raise YamlError("nests deeper than is read", "value", _line(event), field=field)
        if isinstance(event, kinds.SequenceStartEvent):
            return self._listing(_line(event), field, depth - 1)
        return self._mapping(_line(event), depth - 1)

    def _scalar(self, event: Any) -> Scalar:
        from yaml import ScalarNode

        tag = self._loader.resolve(ScalarNode, event.value, event.implicit)
        is_text = tag not in (f"{_TAG}null", f"{_TAG}bool", f"{_TAG}merge")
        return Scalar(_line(event), event.value, quoted=event.style is not None, is_text=is_text)

    def _listing(self, line: int, field: str | None, depth: int) -> Listing:
        items = []
        while not self._loader.check_event(self._kinds.SequenceEndEvent):
            items.append(self._node(field, depth))
        self._loader.get_event()
        return Listing(line, items)

    def _mapping(self, line: int, depth: int) -> Mapping:
        fields: dict[str, Node] = {}
        while not self._loader.check_event(self._kinds.MappingEndEvent):
            name = self._loader.get_event()
            if not isinstance(name, self._kinds.ScalarEvent) or name.tag:
                raise YamlError("this is no name of a field", "name", _line(name))
            if name.value in fields:
                raise YamlError("given twice", "twice", _line(name), field=name.value)
            fields[name.value] = self._node(name.value, depth)
        self._loader.get_event()
        return Mapping(line, fields)


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1

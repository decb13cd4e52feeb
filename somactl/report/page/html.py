"""HTML that cannot be injected into: text is escaped where it becomes a part of an element, and nowhere else.

el("p", "a < b", class_="note")     # Html('<p class="note">a &lt; b</p>')
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TypeAlias

from somactl.suggestion import printable

_VOID = frozenset({"meta", "link", "br"})


class Html(str):
    """Markup. `el` and `join` alone make it; any other text is escaped."""

    __slots__ = ()


Child: TypeAlias = "str | Iterable[Child] | None"


def el(tag: str, *children: Child, **attributes: str | int | float | bool | None) -> Html:
    """An element. A name of an attribute loses its last underscore, and has hyphens for the others; one that
    is None or False is left out, and one that is True has no value."""
    begin = opened(tag, **attributes)
    return begin if tag in _VOID else Html(f"{begin}{join(children)}</{tag}>")


def opened(tag: str, **attributes: str | int | float | bool | None) -> Html:
    """The first tag of an element alone, of one that is written in pieces: Html("</div>") ends it."""
    return Html(f"<{tag}{''.join(_attribute(name, value) for name, value in attributes.items())}>")


def join(children: Iterable[Child], between: Child = None) -> Html:
    """The parts, one after the other."""
    gap = "" if between is None else _content(between)
    return Html(gap.join(_content(child) for child in children if child is not None))


def _content(child: Child) -> str:
    if isinstance(child, Html):
        return child
    if isinstance(child, str):
        return html.escape(child)
    return "" if child is None else join(child)


def _attribute(name: str, value: str | int | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'


def name(text: str, class_: str = "name") -> Html:
    """A key or another name from outside: isolated from the direction of the text around it, its spaces kept;
    what would not be seen, or change what is, stands there as an escape."""
    return el("bdi", text if printable(text) == text else map(_visible, text), class_=class_)


def _visible(character: str) -> Child:
    shown = printable(character)
    return character if shown == character else el("span", shown, class_="escape")

"""Tables of the status page. On a narrow screen each row is a card, with columns' names beside the values.

They come in pieces, so that a server can do something else in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from somactl.report.page.html import Child, Html, el, opened
from somactl.report.page.style import mark


class Column(NamedTuple):
    """label: what a card calls it, if not by its title; empty: nothing, where the value says what it is.
    wide: it takes a line of a card."""

    title: str
    right: bool = False
    label: str | None = None
    wide: bool = False


def section(title: str, *parts: Html | Iterable[Html] | None) -> Iterator[Html]:
    """A part of the page below a heading."""
    anchor = title.lower().replace(" ", "-")
    yield opened("section", aria_labelledby=anchor)
    yield el("h2", title, id=anchor)
    for part in parts:
        if isinstance(part, Html):
            yield part
        elif part is not None:
            yield from part
    yield Html("</section>\n")


def table(
    columns: Sequence[Column], rows: Iterable[Sequence[Child]], caption: str | None = None
) -> Iterator[Html]:
    """The first cell of a row is its header. Roles are named, since `display` makes a browser forget them."""
    yield opened("table", role="table")
    if caption is not None:
        yield el("caption", caption)
    titles = (
        el("th", each.title, scope="col", role="columnheader", class_="right" if each.right else None)
        for each in columns
    )
    yield el("thead", el("tr", titles, role="row"), role="rowgroup")
    yield opened("tbody", role="rowgroup")
    for cells in rows:
        yield _row(columns, cells)
    yield Html("</tbody></table>\n")


def _row(columns: Sequence[Column], cells: Sequence[Child]) -> Html:
    header = el("th", cells[0], scope="row", role="rowheader")
    values = (_cell(column, cell) for column, cell in zip(columns[1:], cells[1:], strict=True))
    return el("tr", header, values, role="row")


def _cell(column: Column, content: Child) -> Html:
    label = column.title if column.label is None else column.label
    look = "right" if column.right else "wide" if column.wide else None
    return el("td", el("div", content), role="cell", data_label=label or None, class_=look)


def word(tone: str, text: str) -> Html:
    """A verdict: its sign and colour say it again, for those who see them."""
    return el("span", mark(tone), text, class_=f"word {tone}")


def aside(*text: Child) -> Html:
    """Behind the value, less weighty."""
    return el("span", " ", text, class_="aside")


def under(*text: Child) -> Html:
    """Below the value, less weighty."""
    return el("div", text, class_="aside under")


def more_than_shown(text: str, many: int) -> Html | None:
    return el("p", text, class_="note") if many > 0 else None

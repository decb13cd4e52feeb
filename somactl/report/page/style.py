"""How pages look in light and dark, and the policy that lets a browser use one style and nothing else."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Literal, TypeAlias
from urllib.parse import quote

from somactl.report.page.html import Html, el

Tone: TypeAlias = Literal["ok", "warn", "bad", "dark"]
MARKS: dict[str, str] = {"ok": "✓", "warn": "!", "bad": "✕", "dark": "◐"}
COLOURS: dict[Tone, str] = {"ok": "#166a3d", "warn": "#845300", "bad": "#b01e17", "dark": "#5b3fa8"}
BASE = files(__package__).joinpath("base.css").read_text(encoding="utf-8")
"""What every page begins its style with."""


def policy(style: str) -> str:
    """A Content-Security-Policy: no script at all, no style but `style`, no picture but the page's own."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def mark(tone: str) -> Html:
    """The sign before a word, which says it to the eye alone."""
    return Html(el("span", MARKS[tone], class_="mark", aria_hidden="true") + " ")


def icon(tone: Tone) -> str:
    """The picture of a tab, as a URL of its own data."""
    picture = el(
        "svg",
        el("circle", cx=8, cy=8, r=8, fill=COLOURS[tone]),
        el("text", MARKS[tone], x=8, y=12, fill="#fff", font_size=11, text_anchor="middle"),
        xmlns="http://www.w3.org/2000/svg",
        viewBox="0 0 16 16",
    )
    return "data:image/svg+xml," + quote(picture)

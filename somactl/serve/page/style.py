"""How the status page looks, and the policy that lets a browser use this style and nothing else."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

COLOURS = {"ok": "#166a3d", "warn": "#845300", "bad": "#b01e17", "dark": "#5b3fa8"}
STYLE = files(__package__).joinpath("style.css").read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


POLICY = (
    f"default-src 'none'; style-src 'sha256-{_digest(STYLE)}'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy: no script at all, no style but STYLE, no picture but the page's own."""

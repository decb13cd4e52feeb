"""Times as text, in the one form of RFC 3339 that is taken: `2026-01-31T12:00:00Z`, with its zone."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

MAX_TIME: Final = 253_402_300_799
"""The last second of the year 9999."""

_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9])(\.[0-9]{1,9})?"
    r"(Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])\Z"
)


def from_rfc3339(text: str) -> float | None:
    """Seconds since 1970; None for what is no such time."""
    match = _RFC3339.match(text)
    if match is None:
        return None
    try:
        whole = datetime.fromisoformat(match[1] + match[3]).timestamp()
    except ValueError:  # a day that its month does not have
        return None
    return float(f"{whole:.0f}{match[2] or ''}")

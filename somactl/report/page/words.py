"""Numbers, ages and times as people read them in a table: short, and each of one width where it can be."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from somactl.report.page.html import Html, el

UNKNOWN = el(
    "span", el("span", "-", aria_hidden="true"), el("span", "not known", class_="unseen"), class_="unknown"
)


def number(value: float | None) -> str | Html:
    """Two digits, as `-1.2e-12`; 0 as it is."""
    if value is None:
        return UNKNOWN
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def count(value: int | None) -> str | Html:
    return UNKNOWN if value is None else f"{value:,}"


def share(value: float | None) -> str | Html:
    """In percent, rounded down: 100 % is all."""
    return UNKNOWN if value is None else f"{int(value * 1000 + 1e-9) / 10:g} %"


def milliseconds(seconds: float | None) -> str | Html:
    return UNKNOWN if seconds is None else f"{seconds * 1000:.1f} ms"


def duration(seconds: float | None) -> str | Html:
    """In the one unit that leaves two digits or so."""
    if seconds is None:
        return UNKNOWN
    seconds = max(0.0, seconds)
    if 0 < seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    for unit, size, most in (("s", 1.0, 120), ("min", 60.0, 120), ("h", 3600.0, 48)):
        if seconds < most * size:
            digits = 1 if unit == "s" and seconds < 9.95 else 0
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds / 86400:,.0f} d"


def moment(at: float | None, now: float, *, zone: bool = True) -> str | Html:
    """A time in UTC, without its date where that is today's; both in seconds since 1970.

    zone  say that it is UTC
    """
    if at is None:
        return UNKNOWN
    there, here = datetime.fromtimestamp(at, UTC), datetime.fromtimestamp(now, UTC)
    shown = there.strftime("%H:%M:%S" if there.date() == here.date() else "%Y-%m-%d %H:%M")
    return el("time", f"{shown} UTC" if zone else shown, datetime=there.strftime("%Y-%m-%dT%H:%M:%SZ"))


def since(at: float | None, now: float) -> str | Html:
    """A time and how long ago that is."""
    if at is None:
        return UNKNOWN
    return el("span", moment(at, now), el("span", f" ({duration(now - at)} ago)", class_="aside"))


def plural(many: int, one: str, more: str | None = None) -> str:
    return f"{many:,} {one if many == 1 else more or one + 's'}"

"""Times, sizes, rates and shares as operators write them: one parser for the options of all commands.

Units of bytes are decimal (`kB`, `MB`, `GB`, `TB`: powers of 1000) or binary (`KiB`, `MiB`, `GiB`, `TiB`:
powers of 1024). What could mean two things (`10M`, `10mb`) is refused.
"""

from __future__ import annotations

import re

from somactl.core.quantities import Part, Share, Size
from somactl.errors import UsageError

_NUMBER = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)([A-Za-z%]*)\Z")
_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_BYTES = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}


def parse_duration(text: str, option: str) -> float:
    """Seconds of `90`, `90s`, `20ms`, `30m`, `24h`, `7d`, `1.5h`. Raises UsageError naming `option`."""
    match = _NUMBER.match(text)
    if match is None or match[2] not in _SECONDS:
        raise UsageError(f"{option} {text!r} is no time", hint="write 90s, 30m, 24h or 7d")
    return float(match[1]) * _SECONDS[match[2]]


def parse_latency(text: str, option: str) -> float:
    """Seconds, more than 0, of `20ms` or `0.5s`: without a unit 20 would be 20 seconds. Raises UsageError."""
    match = _NUMBER.match(text)
    if match is None or match[2] not in ("ms", "s") or not float(match[1]) > 0:
        raise UsageError(f"{option} {text!r} is no latency", hint="write 20ms or 0.5s")
    return parse_duration(text, option)


def parse_rate(text: str, option: str) -> tuple[float | None, float | None]:
    """Things and bytes per second of `200`, `200/s`, `5MB`, `5MB/s`, at most one of them; `0`: no limit.

    Raises UsageError.
    """
    amount = text.removesuffix("/s")
    match = _NUMBER.match(amount)
    if match is None or match[2] not in _BYTES or not (float(match[1]) > 0 or text == "0"):
        raise UsageError(
            f"{option} {text!r} is no rate",
            hint="write 200 (keys per second), 5MB/s, or 0 for no limit",
        )
    if match[2]:
        return None, float(parse_size(amount, option))
    return float(match[1]) or None, None


def parse_size(text: str, option: str) -> int:
    """Bytes of `1000000`, `10MB` (10^6 each), `10MiB` (2^20 each), `1.5GB`. Raises UsageError."""
    match = _NUMBER.match(text)
    if match is None or match[2] not in _BYTES:
        raise UsageError(f"{option} {text!r} is no size", hint="write bytes, or 10MB, 10MiB, 1.5GB")
    whole, _, fraction = match[1].partition(".")
    digits = int(whole + fraction)  # not by floating point, which has no place for 2^53 + 1
    return digits * _BYTES[match[2]] // int(10 ** len(fraction))


def parse_part(text: str, option: str) -> Part:
    """The share of `5%`, the size of `20GB`; `0` is none. A number without a unit could be either.

    Raises UsageError.
    """
    match = _NUMBER.match(text)
    if match is not None and match[2] == "%" and float(match[1]) <= 100:
        return Share(float(match[1]) / 100)
    if text == "0":
        return Share(0.0)
    if match is None or match[2] not in _BYTES.keys() - {""}:
        raise UsageError(f"{option} {text!r} is no share and no size", hint="write 5% or 20GB, or 0 for none")
    return Size(parse_size(text, option))

"""Times, sizes and rates as people write them: `24h`, `10MiB`, `5MB/s`."""

from __future__ import annotations

import re

from somactl.errors import UsageError

_NUMBER = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)([A-Za-z]*)\Z")
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
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
    """Seconds of `90`, `90s`, `30m`, `24h`, `7d`, `1.5h`. Raises UsageError naming `option`."""
    match = _NUMBER.match(text)
    if match is None or match[2] not in _SECONDS:
        raise UsageError(f"{option} {text!r} is no time", hint="write 90s, 30m, 24h or 7d")
    return float(match[1]) * _SECONDS[match[2]]


def parse_rate(text: str, option: str) -> tuple[float | None, float | None]:
    """Things and bytes per second, one of them None, of `200`, `200/s`, `5MB`, `5MB/s`. UsageError."""
    amount = text.removesuffix("/s")
    match = _NUMBER.match(amount)
    if match is None or match[2] not in _BYTES or not float(match[1]) > 0:
        raise UsageError(f"{option} {text!r} is no rate", hint="write 200 (values per second) or 5MB/s")
    return (None, float(parse_size(amount, option))) if match[2] else (float(match[1]), None)


def parse_size(text: str, option: str) -> int:
    """Bytes of `1000000`, `10MB` (10^6 each), `10MiB` (2^20 each), `1.5GB`. Raises UsageError."""
    match = _NUMBER.match(text)
    if match is None or match[2] not in _BYTES:
        raise UsageError(f"{option} {text!r} is no size", hint="write bytes, or 10MB, 10MiB, 1.5GB")
    whole, _, fraction = match[1].partition(".")
    digits = int(whole + fraction)  # not by floating point, which has no place for 2^53 + 1
    return digits * _BYTES[match[2]] // int(10 ** len(fraction))

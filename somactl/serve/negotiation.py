"""What a request's headers ask for: Accept and If-None-Match (RFC 9110), Prefer (RFC 7240)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence


def acceptable(accept: Sequence[str], offers: Sequence[str]) -> str | None:
    """The offer that `Accept` likes best, the first of several; None where it takes none of them."""
    ranges = list(_ranges(accept))
    if not ranges:
        return offers[0]
    liked = [(_quality(offer, ranges), -place) for place, offer in enumerate(offers)]
    quality, place = max(liked)
    return offers[-place] if quality > 0 else None


def _ranges(accept: Sequence[str]) -> Iterator[tuple[str, float]]:
    for part in ",".join(accept).split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        if kind:
            yield kind, next((_number(p[2:]) for p in parameters if p.startswith("q=")), 1.0)


def _quality(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    """That of the range which says most precisely what it means."""
    for kind in (offer, f"{offer.partition('/')[0]}/*", "*/*"):
        found = [quality for name, quality in ranges if name == kind]
        if found:
            return max(found)
    return 0.0


_NUMBER = re.compile(r"[01](\.[0-9]{0,3})?\Z")


def _number(text: str) -> float:
    return float(text) if _NUMBER.match(text) else 0.0


_TAG = re.compile(r'(?:W/)?("[^"]*")')


def matches(if_none_match: Sequence[str], tag: str) -> bool:
    """Whether `If-None-Match` names the tag, or any; compared as weak ones are."""
    text = ",".join(if_none_match)
    return text.strip() == "*" or tag.removeprefix("W/") in _TAG.findall(text)


_WAIT = re.compile(r"wait\s*=\s*\"?([0-9]{1,6})\"?\Z", re.IGNORECASE)


def wait_seconds(prefer: Sequence[str]) -> float | None:
    """How long the caller would wait: `wait=N`, or 0 for `respond-async` alone. None: they do not say."""
    words = [word.split(";")[0].strip() for word in ",".join(prefer).split(",")]
    waits = [float(found[1]) for word in words if (found := _WAIT.match(word))]
    if waits:
        return waits[0]
    return 0.0 if "respond-async" in (word.lower() for word in words) else None

"""How a cache entry lies in Redis: its names, its fields, and how they are read back with distrust."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import xxhash
from msgspec.structs import replace

from somactl.core import framing
from somactl.errors import EnvelopeError
from somactl.store.cached import Cached, Fill
from somactl.store.contract import Entry

NAME = "redis cache"
FIELDS = 9
"""Fields of an entry besides the envelope, in the order in which lua/cache_read.lua returns them."""

GARBAGE_TOKEN = (b"",) * 4
ANYTHING_TOKEN = (b"*",) * 4


class Names(msgspec.Struct, frozen=True):
    """The names of one namespace's cache, all with one hash tag, so in one slot of a cluster.

    After the tag stands nothing for the marker, a colon for an entry and a slash for what is on its way in
    or out, so that no key can name anything but an entry.
    """

    marker: str

    @classmethod
    def of(cls, namespace: str) -> Names:
        return cls(f"somactl:cache:{{{namespace}}}")

    def entry(self, key: str) -> str:
        return f"{self.marker}:{key}"

    def staged(self, nonce: str, number: int) -> str:
        return f"{self.marker}/staged:{nonce}:{number}"

    def displaced(self, nonce: str, number: int) -> str:
        return f"{self.marker}/displaced:{nonce}:{number}"

    @property
    def pattern(self) -> str:
        """Matches all entries; a namespace holds no character that a pattern gives a meaning."""
        return f"{self.marker}:*"

    def key(self, name: bytes) -> str | None:
        """The key of an entry's name; None where something was put there that is no key."""
        try:
            return name.decode().removeprefix(f"{self.marker}:")
        except UnicodeDecodeError:
            return None


def fields(namespace: str, fill: Fill) -> dict[str, Any]:
    """The hash that a fill becomes."""
    account: dict[str, Any] = {
        "version": str(fill.version),
        "incarnation": fill.incarnation,
        "content": fill.content,
        "filled_at": str(micros(fill.read_at)),
        "digest": "",
        "commit_id": "",
        "committed_at": "0",
        "verdict": "",
    }
    if fill.entry is not None:
        entry = fill.entry
        account["digest"] = entry.framed.envelope
        account["commit_id"] = entry.commit_id
        account["committed_at"] = repr(entry.committed_at)
        account["verdict"] = "" if entry.verdict is None else msgspec.json.encode(entry.verdict).decode()
    account["seal"] = _seal(namespace, fill.key, [value.encode() for value in account.values()])
    if fill.entry is not None:
        account["envelope"] = fill.entry.data
    return account


def micros(seconds: float) -> int:
    return round(seconds * 1e6)


def _seal(namespace: str, key: str, account: Sequence[bytes]) -> str:
    """A digest of an entry's account, which the envelope's own digests do not cover.

    Without `filled_at`, the fourth: the cache itself moves it on.
    """
    parts = [namespace.encode(), key.encode(), *account[:3], *account[4:]]
    return xxhash.xxh3_64_hexdigest(b"\0".join(parts))


class Account(Cached, frozen=True):
    """One entry as the script returned it, its account checked; the envelope is not yet."""

    digest: str = ""
    commit_id: str = ""
    committed_at: float = 0.0
    verdict: Mapping[str, Any] | None = None
    envelope: bytes | None = None


def account(namespace: str, key: str, reply: Any) -> Cached:
    """An entry's `Account`, or what is wrong with it."""
    if reply == 0:
        return Cached(key=key, defect="it is no cache entry", token=GARBAGE_TOKEN)
    raw: list[bytes] = reply[:FIELDS]
    token = tuple(raw[:4])
    size, envelope = reply[FIELDS], reply[FIELDS + 1]
    if _seal(namespace, key, raw[: FIELDS - 1]).encode() != raw[FIELDS - 1]:
        return Cached(key=key, size=size, defect="its account does not match its seal", token=token)
    try:
        version, incarnation, content, filled_at, digest, commit_id, committed_at, verdict = (
            text.decode() for text in raw[: FIELDS - 1]
        )
        return Account(
            key=key,
            version=int(version),
            incarnation=incarnation,
            content=content,
            filled_at=int(filled_at) / 1e6,
            digest=digest,
            commit_id=commit_id,
            committed_at=float(committed_at),
            verdict=json.loads(verdict) if verdict else None,
            size=size,
            envelope=envelope,
            token=token,
        )
    except ValueError as exc:
        return Cached(key=key, size=size, defect=f"its account cannot be read: {exc}", token=token)


def verified(namespace: str, found: Account, data: bytes | None) -> Cached:
    """The entry with its value, if the bytes are what its account says, written for this very key."""
    if data is None:
        return replace(found, defect="its bytes are missing")
    try:
        header = framing.verify(data, namespace=namespace, key=found.key)
    except EnvelopeError as exc:
        return replace(found, defect=str(exc))
    if (header.content, header.envelope) != (found.content, found.digest):
        return replace(found, defect="the envelope is intact, but not the one put there")
    entry = Entry(
        key=found.key,
        version=found.version,
        incarnation=found.incarnation,
        commit_id=found.commit_id,
        committed_at=found.committed_at,
        data=data,
        verdict=found.verdict,
        served_by=NAME,
        header=header,
    )
    return replace(found, entry=entry)

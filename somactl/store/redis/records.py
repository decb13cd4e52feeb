"""What is remembered of a commit id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from somactl.errors import StoreDamaged
from somactl.store.contract import CommitMetadata, CommitRecord, Durable, Receipt
from somactl.store.redis.layout import NAME
from somactl.store.request import Request

FIELDS = ("identity", "version", "at", "incarnation", "detail", "noops", "durability")
PAGE = 500
"""Records fetched at once."""


class Detail(msgspec.Struct, frozen=True, omit_defaults=True):
    """The part of a record that the client knows before the commit; the deletes in the script's order."""

    keys: Mapping[str, str | None]
    user: Mapping[str, str]
    verdicts: Mapping[str, Mapping[str, Any]]
    command: str
    idempotency_key: str | None = None
    grace: float | None = None
    facts: Mapping[str, Any] = {}
    summary: Mapping[str, Any] | None = None


_decode_detail = msgspec.json.Decoder(Detail).decode


def detail(request: Request) -> bytes:
    known = request.metadata
    return msgspec.json.encode(
        Detail(
            request.contents,
            known.user,
            known.verdicts,
            known.command,
            known.idempotency_key,
            known.grace,
            known.facts,
            request.summary,
        )
    )


def record(namespace: str, commit_id: str, fields: Sequence[Any]) -> CommitRecord | None:
    """The record whose `FIELDS` these are; None where there is none. Raises StoreDamaged."""
    identity, version, at, incarnation, told, noops, durability = fields
    if at is None:
        return None
    if identity is None:
        return CommitRecord(commit_id, "aborted", float(at), None, None)
    try:
        known = _decode_detail(told)
        receipt = Receipt(
            commit_id=commit_id,
            namespace=namespace,
            incarnation=bytes(incarnation).decode(),
            version=int(version),
            keys=known.keys,
            stores=(Durable(NAME, bytes(durability).decode()),),
            committed_at=float(at),
            noops=absent(known.keys, bytes(noops).decode()),
        )
    except (TypeError, ValueError, IndexError, msgspec.DecodeError, RecursionError) as exc:
        raise StoreDamaged(f"the record of commit {commit_id} is not what was written ({exc})") from exc
    metadata = CommitMetadata(
        known.user, known.verdicts, known.command, known.idempotency_key, known.grace, facts=known.facts
    )
    return CommitRecord(commit_id, "committed", receipt.committed_at, receipt, metadata)


def absent(keys: Mapping[str, str | None], numbers: str) -> tuple[str, ...]:
    """The deletes that found nothing; the script tells them by their number among the deletes, from 1."""
    if not numbers:
        return ()
    deletes = [key for key, content in keys.items() if content is None]
    return tuple(deletes[int(number) - 1] for number in numbers.split(" "))

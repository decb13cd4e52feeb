"""JSON documents that carry the SHA-256 of what stands in them: canonical, so that one value has one digest.

    data = with_digest(canonical(tree))
    tree = tree_of(data, "audit.json")      # or it raises EvidenceRejected
    with_digest(body_of(tree)) == data

A digest finds what was damaged or altered by accident. It is no signature: an attacker can compute it anew.
"""

from __future__ import annotations

import hashlib
from typing import Any

from somactl.core.canonical import RepeatedMember, canonical, read
from somactl.core.text_encoding import wide_encoding, without_mark
from somactl.errors import EvidenceRejected


def refused(name: str, defect: str, what: str, *, hint: str | None = None, **facts: Any) -> EvidenceRejected:
    return EvidenceRejected(f"{name}: {what}", hint=hint, defect=defect, file=name, **facts)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def with_digest(body: bytes) -> bytes:
    """The canonical object `body` with its digest, whose name sorts before those of all evidence but one."""
    return b'{"digest":"' + digest_of(body).encode() + b'",' + body[1:]


def body_of(tree: dict[str, Any]) -> bytes:
    """What the digest is of: all members but itself."""
    return canonical({member: value for member, value in tree.items() if member != "digest"})


def tree_of(data: bytes, name: str) -> dict[str, Any]:
    """The object in `data`. Raises EvidenceRejected, with the defect `not-json` or `repeated-member`."""
    if (encoding := wide_encoding(data)) is not None:
        raise refused(name, "not-json", f"it is {encoding}, not UTF-8", hint="have it written as UTF-8")
    try:
        tree = read(without_mark(data).decode())
        canonical(tree)
    except RepeatedMember as exc:
        raise refused(name, "repeated-member", str(exc)) from None
    except RecursionError:
        raise refused(name, "not-json", "it is nested too deeply") from None
    except ValueError as exc:
        raise refused(name, "not-json", f"it is no JSON: {exc}") from None
    if not isinstance(tree, dict):
        raise refused(name, "not-json", "it is JSON, but no object")
    return tree


def unknown_member(found: Any, known: Any, path: str = "") -> str | None:
    """Where `found` has a member that `known`, its typed form, lacks; None where it has none."""
    if isinstance(found, dict):
        inner = [(f"{path}.{name}" if path else name, value, name) for name, value in found.items()]
    elif isinstance(found, list):
        inner = [(f"{path}[{at}]", value, at) for at, value in enumerate(found)]
    else:
        return None
    for where, value, at in inner:
        if isinstance(known, dict) and at not in known:
            return where
        deeper = unknown_member(value, known[at], where)
        if deeper is not None:
            return deeper
    return None

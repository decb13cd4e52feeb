"""What can be told of a server that was replaced, or began anew, behind the last commit of a namespace.

Replication is asynchronous: a replica that takes over need not have what the old primary acknowledged last.
Nor has it any trace of that, so what was lost cannot be told. That it happened can: each commit keeps the
server's replication id in the head, and a server that takes over has another. From then on the versions
behind that commit may have been given twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from somactl.store.contract import Finding
from somactl.store.redis.layout import NAME, text
from somactl.suggestion import run

FIELDS = ("replid", "durability", "run_id", "replaced_behind", "replaced_at")
"""Of a head; see `lua/commit.lua`, which writes them."""

_ADVICE = (
    "commits that were acknowledged after it may be lost, and their versions given again: compare receipts "
    "with the log; expect digests (--expect KEY=sha:DIGEST), or give the namespace a new incarnation, "
    "which no cache and no INCARNATION:N from before matches"
)


def is_replica(told: Any) -> bool:
    """Whether a server that replied so to INFO is one; False where it does not say."""
    return isinstance(told, bytes) and b"role:slave" in told


def findings(reply: Any, told: Mapping[str, str]) -> list[Finding]:
    """Of a namespace whose head has these `version` and `FIELDS`, on a server that tells this of itself."""
    if isinstance(reply, Exception) or reply[0] is None:
        return []
    version, replid, durability, run_id, behind, at = map(text, reply)
    if replid is None and behind is None:
        return []
    replaced = replid is not None and told.get("master_replid", replid) != replid
    if replaced and _took_over(told, durability, run_id):
        return [_warning(f"the server was replaced, or began anew, after version {behind or version}")]
    if behind is not None:
        when = datetime.fromtimestamp(float(at or 0), UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        return [_warning(f"the server was replaced, or began anew, after version {behind}, seen at {when}")]
    if "master_replid" not in told:
        return [
            Finding(NAME, "failover", "unknown", "the server does not tell its replication id", "grant +info")
        ]
    return [Finding(NAME, "failover", "ok", "the server is the one that made the last commit")]


def _took_over(told: Mapping[str, str], durability: str | None, run_id: str | None) -> bool:
    """Whether a server of another replication id may lack commits; as `lua/commit.lua` decides it."""
    if told.get("master_replid2", "").strip("0"):
        return True
    on_disk = told.get("appendonly") == "yes" and told.get("appendfsync") == "always"
    return told.get("run_id") != run_id and not (on_disk and durability == "fsync")


def _warning(detail: str) -> Finding:
    return Finding(
        NAME, "failover", "warning", detail, _ADVICE, (run("log"), run("init", new_incarnation=True))
    )

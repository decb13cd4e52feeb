"""What `doctor` can tell of a Redis and a namespace in it, without changing either."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from somactl.address import is_local
from somactl.errors import NamespaceNotFound, SomactlError
from somactl.store import findings
from somactl.store.contract import Finding
from somactl.store.redis.connection import Server
from somactl.store.redis.layout import FURTHER_PARTS, LAYOUT, NAME, PARTS, TYPES, NamespaceHead, seconds, text
from somactl.store.redis.link import parse_config, parse_info
from somactl.store.redis.pool import Call, Reply
from somactl.store.redis.reading import STAT, Reader
from somactl.suggestion import Suggestion, run

Status: TypeAlias = 'Literal["ok", "warning", "problem", "unknown"]'
Told: TypeAlias = "Mapping[str, str]"

_OLDEST = (7, 0)
_NEARLY_FULL, _FULL = 0.8, 0.95
_ASK_INFO = "grant the user +info"
_INIT = (
    "it is to be created; if a backup was restored, it was not read: a Redis with appendonly yes "
    "ignores dump.rdb, see Backup and restore in docs/STORE_REDIS.md"
)
_LINEAGE = ("replid", "durability", "run_id", "replaced_behind", "replaced_at")
"""Of a head; see `lua/commit.lua`, which writes them."""
_LINEAGE_ADVICE = (
    "commits that were acknowledged after it may be lost, and their versions given again: compare receipts "
    "with the log; expect digests (--expect KEY=sha:DIGEST), or give the namespace a new incarnation, "
    "which no cache and no INCARNATION:N from before matches"
)


async def diagnose(reader: Reader, server: Server) -> list[Finding]:
    """Findings about the server behind `reader`, and about its namespace. Nothing is raised."""
    link = reader.link
    began = time.time()
    try:
        # First, because it finds the node that has the namespace: INFO is answered by any.
        (lineage,) = await link.ask(("HMGET", reader.names.head, "version", *_LINEAGE))
        info, config, clock, looked = await link.ask(
            ("INFO",),
            ("CONFIG", "GET", "maxmemory-policy", "appendonly", "appendfsync"),
            ("TIME",),
            Call(STAT, [reader.names.head], [0]),
        )
        ended = time.time()
        namespace = await _namespace(reader)
    except SomactlError as exc:
        return [_finding("reachable", "problem", exc.message, exc.hint or "")]
    told = {**parse_config(config), **parse_info(info)}
    return [
        _finding("reachable", "ok", link.place),
        _version(told),
        _tls(server),
        _policy(told),
        _memory(told),
        _persistence(told),
        _replicas(told, server.wait_replicas),
        *_lineage(lineage, told),
        _clock(clock, began, ended),
        _permissions(reader, looked, config),
        *namespace,
        await _writes(reader),
    ]


def _version(told: Told) -> Finding:
    version = told.get("redis_version")
    if version is None:
        return _finding("version", "unknown", "the server does not tell its version", _ASK_INFO)
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < _OLDEST:
        return _finding("version", "problem", f"Redis {version}", "use Redis 7.0 or newer")
    return _finding("version", "ok", f"Redis {version}")


def _tls(server: Server) -> Finding:
    near = all(is_local(host) for host, _ in server.nodes)
    if server.tls is None:
        if server.path or near:
            return _finding("tls", "ok", "none is needed on one machine")
        advice = "give the server a certificate and name it rediss://"
        return _finding("tls", "warning", "passwords and values travel unencrypted", advice)
    if server.tls["ssl_cert_reqs"] == "required":
        return _finding("tls", "ok", "encrypted, and the certificate is verified")
    if near:
        return _finding("tls", "ok", "encrypted; on one machine the certificate need not be verified")
    return _finding(
        "tls",
        "warning",
        "encrypted, but another machine could pose as this server",
        "take ssl_cert_reqs=none out of the URL, and name the authority with ssl_ca_certs=FILE",
    )


def _policy(told: Told) -> Finding:
    policy = told.get("maxmemory-policy") or told.get("maxmemory_policy")
    if policy is None:
        return _finding("maxmemory-policy", "unknown", "the server does not tell it", _ASK_INFO)
    if policy != "noeviction":
        told_of = f"{policy}: the server may evict what is committed, so nothing is written to it"
        advice = (
            "set maxmemory-policy to noeviction, or keep the truth in Postgres and use this Redis as --cache"
        )
        return _finding("maxmemory-policy", "problem", told_of, advice)
    if int(told.get("evicted_keys", "0")):
        return _finding(
            "maxmemory-policy",
            "warning",
            f"noeviction now, but {told['evicted_keys']} keys were evicted since the server started",
            "read every value: an audit finds what the index still names",
            run("verify-psd", all_=True),
        )
    return _finding("maxmemory-policy", "ok", policy)


def _memory(told: Told) -> Finding:
    if "used_memory" not in told:
        return _finding("memory", "unknown", "the server does not tell how full it is", _ASK_INFO)
    used, limit = int(told["used_memory"]), int(told.get("maxmemory", "0"))
    whole = limit or int(told.get("total_system_memory", "0"))
    of = f"maxmemory {_size(limit)}" if limit else f"the machine's {_size(whole)}, with no maxmemory set"
    detail = f"{_size(used)} of {of}"
    if not whole or used < _NEARLY_FULL * whole:
        return _finding("memory", "ok", detail)
    advice = "make room, keep fewer versions, or give it more memory"
    if not limit:
        advice += "; set maxmemory, or the kernel will end the server when memory runs out"
    status: Status = "problem" if used > _FULL * whole else "warning"
    return _finding("memory", status, detail, advice, run("compact", dry_run=True))


def _persistence(told: Told) -> Finding:
    for field, what in (
        ("rdb_last_bgsave_status", "the last snapshot failed"),
        ("aof_last_write_status", "the last write to the append-only file failed"),
    ):
        if told.get(field, "ok") != "ok":
            advice = "look at the server's log and disk; it may refuse writes until one succeeds"
            return _finding("persistence", "problem", what, advice)
    if "appendonly" not in told:
        return _finding(
            "persistence",
            "unknown",
            "the server does not tell whether it keeps an append-only file; receipts say `memory`",
            "grant the user +config|get",
        )
    if told["appendonly"] != "yes":
        return _finding(
            "persistence",
            "warning",
            "no append-only file: a crash loses what was committed since the last snapshot",
            "set appendonly yes and appendfsync always, unless that loss is acceptable",
        )
    if told.get("appendfsync") != "always":
        return _finding(
            "persistence",
            "warning",
            f"append-only file with appendfsync {told.get('appendfsync')}: a crash of the machine loses the "
            "last commits",
            "set appendfsync always, unless that loss is acceptable",
        )
    return _finding("persistence", "ok", "append-only file, one fsync before each acknowledgement")


def _replicas(told: Told, wanted: int) -> Finding:
    if "role" not in told:
        return _finding("replicas", "unknown", "the server does not tell of replicas", _ASK_INFO)
    if told["role"] != "master":
        return _finding(
            "replicas",
            "problem",
            "this is a replica: it takes no writes, and may be behind",
            "name the primary in the URL",
        )
    there = int(told.get("connected_slaves", "0"))
    if there < wanted:
        return _finding(
            "replicas",
            "problem",
            f"{there} attached, and commits wait for {wanted} (wait_replicas)",
            "bring the replicas back, or lower wait_replicas in the URL",
        )
    return _finding("replicas", "ok", f"{there} attached")


def _clock(reply: Reply, began: float, ended: float) -> Finding:
    if isinstance(reply, Exception):
        return _finding("clock", "unknown", "the server does not tell the time", "grant the user +time")
    return findings.clock(NAME, seconds(reply), began, ended)


def _permissions(reader: Reader, looked: Reply, config: Reply) -> Finding:
    if isinstance(looked, Exception):
        error = reader.link.error(looked)
        hint = getattr(error, "hint", None) or "look at the server's log"
        return _finding("permissions", "problem", str(error), hint)
    if isinstance(config, Exception):
        return _finding(
            "permissions",
            "warning",
            "scripts run; CONFIG GET is forbidden, so receipts say `memory` whatever the settings are",
            "grant the user +config|get",
        )
    return _finding("permissions", "ok", "scripts run, and settings can be read")


async def _namespace(reader: Reader) -> list[Finding]:
    name = reader.names.namespace
    try:
        here: NamespaceHead = await reader.place()
    except NamespaceNotFound:
        detail = f"namespace {name!r} does not exist yet"
        return [
            _finding("layout", "ok", f"this somactl writes layout {LAYOUT}"),
            _finding("namespace", "problem", detail, _INIT, run("init")),
        ]
    except SomactlError as exc:
        return [_finding("layout", "problem", exc.message, exc.hint or "")]
    return [
        _finding("layout", "ok", f"layout {here.layout}; this somactl writes {LAYOUT}"),
        await _indexes(reader),
        findings.retention(NAME, here.head.retention),
    ]


async def _indexes(reader: Reader) -> Finding:
    """Whether all parts are of their type, and as many keys indexed as counted; else no commit is taken."""
    names = reader.names
    parts = (*PARTS, *FURTHER_PARTS)
    types = reader.link.values(await reader.link.ask(*(("TYPE", names.tag + part) for part in parts)))
    for part, kind in zip(parts, types, strict=True):
        wanted = TYPES.get(part, "zset")
        if (found := kind.decode()) not in ("none", wanted):
            return _finding(
                "indexes",
                "problem",
                f"{names.tag}{part} is a {found}, no {wanted}: something else wrote it; no commit is taken",
                "find what else writes keys that begin with `somactl:`, then restore a backup",
            )
    counted, keys, deleted = reader.link.values(
        await reader.link.ask(
            ("HMGET", names.head, "keys", "tombstones"), ("ZCARD", names.keys), ("ZCARD", names.deleted)
        )
    )
    if [int(count or 0) for count in counted] == [keys, deleted]:
        return _finding("indexes", "ok", f"{keys} keys, {deleted} deleted, as the head counts")
    return _finding(
        "indexes",
        "problem",
        f"the indexes have {keys} keys and {deleted} deleted ones, and the head counts "
        f"{' and '.join(str(int(count or 0)) for count in counted)}: no commit is taken",
        "restore a backup, or see the runbook store-damaged",
    )


async def _writes(reader: Reader) -> Finding:
    """Commands that a commit uses, each on a name that is not there, so that it changes nothing."""
    nothing = reader.names.stage("doctor", 0)
    probes: list[tuple[str | int, ...]] = [
        ("SET", nothing, "", "XX"),
        ("HDEL", nothing, "f"),
        ("ZADD", nothing, "XX", 0, "m"),
        ("ZREM", nothing, "m"),
        ("PEXPIRE", nothing, 1),
        ("UNLINK", nothing),
    ]
    try:
        for probe, reply in zip(probes, await reader.link.ask(*probes), strict=True):
            if isinstance(reply, Exception):
                error = reader.link.error(reply)
                detail = f"{probe[0]}: {error}"
                hint = getattr(error, "hint", None) or "look at the server's log"
                return _finding("commit", "problem", detail, hint)
    except SomactlError as exc:
        return _finding("commit", "problem", exc.message, exc.hint or "look at the server's log")
    return _finding("commit", "ok", "writes are taken")


def _size(count: int) -> str:
    return f"{count / (1 << 20):,.0f} MiB"


def _finding(check: str, status: Status, detail: str, advice: str = "", *next: Suggestion) -> Finding:
    return Finding(NAME, check, status, detail, advice, next)


def _lineage(reply: Any, told: Mapping[str, str]) -> list[Finding]:
    """Of a namespace whose head has these `version` and `_LINEAGE`, on a server that tells this of itself.

    Replication is asynchronous: a replica that takes over need not have what the old primary acknowledged
    last. Nor has it any trace of that, so what was lost cannot be told. That it happened can: each commit
    keeps the server's replication id in the head, and a server that takes over has another. From then on the
    versions behind that commit may have been given twice.
    """
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
        NAME, "failover", "warning", detail, _LINEAGE_ADVICE, (run("log"), run("init", new_incarnation=True))
    )

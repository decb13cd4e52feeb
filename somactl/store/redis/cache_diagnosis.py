"""What `doctor` can tell of a Redis that serves as a cache."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from somactl.errors import ConfigurationError, SomactlError
from somactl.store.contract import Finding
from somactl.store.redis.cache_entries import NAME
from somactl.store.redis.connection import Server

if TYPE_CHECKING:
    from somactl.store.redis.cache import RedisCache

LEAST_VERSION = (7, 0)
SKEW_SECONDS = 1.0
NEARLY_FULL = 0.95


async def diagnose(cache: RedisCache) -> list[Finding]:
    """Findings about the server; it is only read."""
    try:
        server, memory = await cache.info("server"), await cache.info("memory")
        begun = time.time()
        view = await cache.find([])
        skew = view.now - (begun + time.time()) / 2
    except SomactlError as exc:
        # The hint of a cache that does not answer is to run `doctor`.
        advice = exc.hint if isinstance(exc, ConfigurationError) else None
        advice = advice or "see that the server runs and answers, and is the one that --cache names"
        return [_finding("reachable", "problem", exc.message, advice)]
    return [
        _finding("reachable", "ok", cache.place),
        _version(server),
        _tls(cache.server),
        _policy(memory),
        _room(memory),
        _clock(skew),
    ]


def _version(server: Mapping[str, str]) -> Finding:
    version = server.get("redis_version", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < LEAST_VERSION:
        return _finding("version", "warning", f"Redis {version or 'unknown'}", "use Redis 7.0 or newer")
    return _finding("version", "ok", f"Redis {version}")


def _tls(server: Server) -> Finding:
    if server.tls is None:
        return _finding("tls", "ok", "none: matrices travel in the clear, as the URL says")
    if server.tls.get("ssl_cert_reqs") == "none":
        return _finding("tls", "ok", "encrypted; on this machine the certificate is not verified")
    return _finding("tls", "ok", "encrypted, certificate verified")


def _policy(memory: Mapping[str, str]) -> Finding:
    policy, limit = memory.get("maxmemory_policy", "unknown"), int(memory.get("maxmemory", "0"))
    detail = f"maxmemory-policy {policy}, maxmemory {limit or 'unlimited'}"
    if limit == 0:
        return _finding(
            "maxmemory-policy",
            "warning",
            detail,
            "set maxmemory, so that a cache that grows is held in bounds before the machine is full",
        )
    if policy == "noeviction":
        return _finding(
            "maxmemory-policy",
            "warning",
            detail,
            "a full cache then refuses new copies until old ones expire: use allkeys-lru, unless this Redis "
            "also keeps what must not be evicted",
        )
    return _finding("maxmemory-policy", "ok", detail)


def _room(memory: Mapping[str, str]) -> Finding:
    used, limit = int(memory.get("used_memory", "0")), int(memory.get("maxmemory", "0"))
    if limit and used > NEARLY_FULL * limit:
        return _finding(
            "memory",
            "warning",
            f"{used} of {limit} bytes are used",
            "raise maxmemory, or shorten SFM_RHO_CACHE_TTL: copies are evicted before their time",
        )
    return _finding("memory", "ok", f"{used} of {limit or 'unlimited'} bytes are used")


def _clock(skew: float) -> Finding:
    detail = f"{skew:+.3f} s from this machine's"
    if abs(skew) > SKEW_SECONDS:
        return _finding(
            "clock",
            "warning",
            detail,
            "set both by NTP; a jump of the cache's clock makes copies expire too early or too late",
        )
    return _finding("clock", "ok", detail)


def _finding(
    check: str, status: Literal["ok", "warning", "problem", "unknown"], detail: str, advice: str = ""
) -> Finding:
    return Finding(NAME, check, status, detail, advice)

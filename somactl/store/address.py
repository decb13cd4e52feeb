"""What may be said of a server's URL, and where it points to. No password leaves this module."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def public(url: str) -> str:
    """The URL as a message may show it: without password and without parameters, which may hold one."""
    parts = urlsplit(url)
    user, _, place = parts.netloc.rpartition("@")
    name = user.partition(":")[0]
    return f"{parts.scheme}://{name + '@' if name else ''}{place}{parts.path}"


def is_local(host: str | None) -> bool:
    """Whether `host` is this machine: loopback, a unix socket's path, or nothing at all."""
    if not host or host.startswith("/") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False

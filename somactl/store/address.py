"""What may be said of a server's URL, and where it points to. No password leaves this module."""

from __future__ import annotations

import ipaddress
import re


def public(url: str) -> str:
    """The URL as a message may show it: without password and without parameters, which may hold one.

    A password that was not quoted may hold `/`, `?` and `#`: whatever stands before the last `@` is login.
    """
    scheme, _, rest = url.partition("://")
    login, at, place = rest.rpartition("@")
    return f"{scheme}://{login.partition(':')[0]}{at}{re.split('[?#]', place)[0]}"


def is_local(host: str | None) -> bool:
    """Whether `host` is this machine: loopback, a unix socket's path, or nothing at all."""
    if not host or host.startswith("/") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False

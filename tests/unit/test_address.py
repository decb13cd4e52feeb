"""What may be said of a URL, and which hosts are this machine."""

from __future__ import annotations

import pytest

from somactl.address import is_local, public

UNREADABLE = "an address that cannot be read"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://user:secret@host:6379/0", "redis://user@host:6379/0"),
        ("redis://:secret@host", "redis://@host"),
        ("redis://secret@host", "redis://@host"),
        ("redis://user:se/cr?e#t@host/0", UNREADABLE),
        ("redis://user:se@cret@host/0", UNREADABLE),
        ("redis:user:secret@host", UNREADABLE),
        ("host=h password=secret", UNREADABLE),
        ("sqlite:///x?key=secret", UNREADABLE),
        ("secret", UNREADABLE),
        ("", UNREADABLE),
        ("postgresql://user@host/db?password=secret", "postgresql://user@host/db"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
        ("redis://host?db=2", "redis://host/2"),
        ("postgresql:///db?host=/tmp&port=1", "postgresql:///db?host=/tmp&port=1"),
        ("postgresql://h/a%1B%0Ab", "postgresql://h/a%1B%0Ab"),
        ("redis://user:secret@[::1]:1/0", "redis://user@[::1]:1/0"),
    ],
)
def test_no_secret_is_shown(url: str, shown: str) -> None:
    assert public(url) == shown


@pytest.mark.parametrize("host", [None, "", "localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]", "/run/x"])
def test_this_machine(host: str | None) -> None:
    assert is_local(host)


@pytest.mark.parametrize("host", ["db.example", "10.0.0.1", "localhost.example", "::2"])
def test_other_machines(host: str) -> None:
    assert not is_local(host)

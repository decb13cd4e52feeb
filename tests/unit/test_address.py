"""What may be said of a URL, and which hosts are this machine."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import quote, unquote

import pytest
from hypothesis import given, strategies as st

from somactl.address import Use, is_local, parse, public
from somactl.errors import ConfigurationError

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


CHARACTERS = st.characters(blacklist_characters="\0", blacklist_categories=("Cs",))
NAMES = st.text(CHARACTERS, min_size=1, max_size=12).map(lambda text: quote(text, safe=""))


@given(NAMES, NAMES, NAMES, NAMES)
def test_every_quoted_part_arrives_as_it_was(user: str, password: str, database: str, name: str) -> None:
    address = parse(f"postgresql://{user}:{password}@h:1/{database}?application_name={name}")
    assert [address.user, address.password, address.database] == [*map(unquote, (user, password, database))]
    assert address.options == {"application_name": unquote(name)}
    assert address.public.isprintable()
    again = parse(address.public)
    assert (again.user, again.database, again.hosts) == (address.user, address.database, address.hosts)
    redis = parse(f"redis://{user}:{password}@h/3")
    assert (redis.user, redis.password, redis.database) == (unquote(user), unquote(password), "3")


@given(
    st.sampled_from(
        ["", "redis://", "postgresql://", "unix://", "sqlite:///", "rediss://h?", "postgresql://h?"]
    ),
    st.text(),
    st.sampled_from(["store", "cache", "source"]),
)
def test_any_text_is_an_address_or_refused(head: str, text: str, use: Use) -> None:
    with suppress(ConfigurationError):
        address = parse(head + text, use)
        assert address.public.isprintable()
        assert parse(address.public).identity == address.identity

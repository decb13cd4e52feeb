"""Which sockets `somactl serve` takes, from systemd or of its own."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from somactl.errors import ConfigurationError
from somactl.serve.context import Address, ServeOptions
from somactl.serve.sockets import Sockets, open_sockets
from somactl.serve.systemd import Handed, Systemd

FREE = Address("127.0.0.1", 0)


class Manager(Systemd):
    """It hands over sockets of these names, bound to `host`."""

    def __init__(self, *names: str, host: str = "127.0.0.1") -> None:
        super().__init__({})
        self.handed = [Handed(name, socket.create_server((host, 0))) for name in names]

    def sockets(self) -> list[Handed]:
        return self.handed


@contextlib.contextmanager
def opened(manager: Manager, **options: object) -> Iterator[Sockets]:
    given = ServeOptions(**{"http": FREE, "grpc": FREE, **options})  # type: ignore[arg-type]
    with contextlib.ExitStack() as closing:
        for each in manager.handed:
            closing.callback(each.listening.close)
        stack = contextlib.AsyncExitStack()
        yield open_sockets(given, manager, stack)


def test_a_socket_is_for_grpc_if_it_is_named_so() -> None:
    manager = Manager("somactl-serve.socket", "grpc", "")
    with opened(manager) as found:
        one, two, three = (each.listening for each in manager.handed)
        assert found == Sockets([one, three], two)


def test_what_is_not_handed_over_is_bound() -> None:
    manager = Manager("grpc")
    with opened(manager) as found:
        assert found.grpc is manager.handed[0].listening
        (own,) = found.http
        assert own.getsockname()[0] == "127.0.0.1"
        own.close()


@pytest.mark.parametrize(
    ("names", "options"), [(["grpc"], {"grpc": None}), (["grpc", "grpc"], {})], ids=["off", "two"]
)
def test_a_socket_that_nothing_is_served_on(names: list[str], options: dict[str, None]) -> None:
    with pytest.raises(ConfigurationError) as caught, opened(Manager(*names), **options):
        pass
    assert caught.value.hint is not None


@pytest.mark.parametrize("name", ["http", "grpc"])
def test_a_socket_that_other_machines_reach_needs_tls_too(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"0\.0\.0\.0"), opened(Manager(name, host="0.0.0.0")):
        pass
    with opened(Manager(name, host="0.0.0.0"), allow_plaintext=True) as found:
        for each in found.http:
            each.close()


def test_an_address_that_stands_back_for_a_socket_is_not_looked_at() -> None:
    with opened(Manager("http", "grpc"), http=Address("0.0.0.0", 1), grpc=Address("0.0.0.0", 1)) as found:
        assert len(found.http) == 1


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        *(
            ("127.0.0.1", True),
            ("127.8.0.1", True),
            ("::1", True),
            ("localhost", True),
            ("unix:/run/x", True),
        ),
        *(("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("127.example.org", False), ("", False)),
    ],
)
def test_what_other_machines_reach(host: str, is_loopback: bool) -> None:
    assert Address(host, 80).is_loopback == is_loopback

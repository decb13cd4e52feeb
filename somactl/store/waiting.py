"""What a call waits for, told to the one who listens, and the name by which servers know who asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

NOTICED_SECONDS = 1.0
"""What is shorter than this is no waiting."""

client_name: ContextVar[str] = ContextVar("client_name", default="somactl")
"""What pg_stat_activity and CLIENT LIST show, so that another who waits can tell what for."""
_listener: ContextVar[Callable[[str], None] | None] = ContextVar("waiting", default=None)


@contextmanager
def listening(tell: Callable[[str], None]) -> Iterator[None]:
    """Within the block, `tell` is called with what a store waits for; it may be the same several times."""
    token = _listener.set(tell)
    try:
        yield
    finally:
        _listener.reset(token)


def is_heard() -> bool:
    """Whether it is worth finding out what is waited for."""
    return _listener.get() is not None


def wait_for(what: str) -> None:
    """Tell that `what` is waited for."""
    tell = _listener.get()
    if tell is not None:
        tell(what)

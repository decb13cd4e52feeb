"""What must not be open while the process forks: SQLite's locks belong to a process, not to a connection.

What SQLite remembers of its locks would be untrue in the child: it would read without one, and write into a
log that the parent may remove at that moment. So connections are closed before the fork, and made anew behind
it.
"""

from __future__ import annotations

import concurrent.futures.thread  # its own hook must stand before ours, or a job handed over there would wait
import os
from typing import Protocol
from weakref import WeakSet


class Parked(Protocol):
    """Something that is closed before a fork, stays closed until it is done, and starts anew in the child."""

    def park(self) -> None: ...
    def resume(self) -> None: ...
    def leave(self) -> None: ...


ThreadPoolExecutor = concurrent.futures.thread.ThreadPoolExecutor
_parked: WeakSet[Parked] = WeakSet()


def park_at_fork(owner: Parked) -> None:
    _parked.add(owner)


def _before() -> None:
    for each in list(_parked):
        each.park()


def _in_parent() -> None:
    for each in list(_parked):
        each.resume()


def _in_child() -> None:
    for each in list(_parked):
        each.leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)

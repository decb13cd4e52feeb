"""Where open connections, threads and tasks belong: to one process, and to one event loop of it.

A forked child has a copy of its parent's sockets and event loops, and none of its threads. If it spoke over
one of these sockets, both would get each other's answers. Were it to close one, it would take it out of the
selector that it shares with its parent; so would the garbage collector. So in the child all that was open is
put away, for as long as the process lives, and what needs a connection there makes its own.

An event loop that is closed takes its connections with it; what is used in another one behind it begins anew.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any
from weakref import WeakSet

from somactl.errors import UsageError


class Home:
    """The event loop that its owner's connections and tasks belong to.

    leave  called when they belong to another process, or to a loop that is closed: it forgets them, closing
           nothing, and returns them
    """

    def __init__(self, leave: Callable[[], object]) -> None:
        self._leave = leave
        self._loop: asyncio.AbstractEventLoop | None = None
        _homes.add(self)

    def enter(self, work: Coroutine[Any, Any, Any] | None = None) -> None:
        """Called before anything is done: what is open belongs to the loop that runs now.

        Raises UsageError where it belongs to another one that is at work, and where the loop is the parent
        process's; `work`, which was to be done, is closed then.
        """
        try:
            self._enter(own_loop())
        except BaseException:
            if work is not None:
                work.close()
            raise

    def _enter(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is loop:
            return
        if self._loop is not None:
            if not self._loop.is_closed():
                raise UsageError(
                    "a store is used in two event loops at once",
                    hint="open one in each loop: its connections belong to the loop that made them",
                )
            self._leave()
        self._loop = loop

    def put_away(self) -> None:
        """In a forked child: keep what is the parent's, so that it is never collected."""
        if self._loop is not None:
            _inherited.append(self._loop)
        _kept.append(self._leave())
        self._loop = None


def own_loop() -> asyncio.AbstractEventLoop:
    """The event loop that runs; raises UsageError where none of this process does."""
    try:
        loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    if loop is None or loop in _inherited:
        raise UsageError(
            "no event loop of this process is running",
            hint="start one with asyncio.run(...); after a fork the parent's cannot be used",
        )
    return loop


_homes: WeakSet[Home] = WeakSet()
_inherited: list[asyncio.AbstractEventLoop] = []
_kept: list[object] = []


def _in_child() -> None:
    for home in list(_homes):
        home.put_away()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

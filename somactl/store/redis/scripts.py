"""The Lua files under `lua/`, called by their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from somactl.package_data import data_file

if TYPE_CHECKING:
    from somactl.store.redis.connection import Client

Argument: TypeAlias = "str | bytes | memoryview | int"
Command: TypeAlias = "Sequence[Argument]"


class Call:
    """A script with what it is called with: one more kind of command."""

    def __init__(self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument] = ()) -> None:
        self.script = script
        self._rest = (len(keys), *keys, *arguments)

    @property
    def by_digest(self) -> Command:
        return ("EVALSHA", self.script.digest, *self._rest)

    @property
    def by_source(self) -> Command:
        return ("EVAL", self.script.source, *self._rest)


class Script:
    """The file `lua/NAME.lua`; read when first called.

    Called by digest, and with its source only where the server does not know it: after a restart, a
    failover or SCRIPT FLUSH. A call refused with NOSCRIPT has done nothing, so calling again is safe.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @cached_property
    def source(self) -> bytes:
        return data_file("lua", f"{self.name}.lua").read_bytes()

    @cached_property
    def digest(self) -> str:
        """SHA-1, because that is the name Redis gives a script; nothing is trusted to it."""
        return hashlib.sha1(self.source, usedforsecurity=False).hexdigest()

    async def __call__(
        self, client: Client, keys: Sequence[Argument], arguments: Sequence[Argument] = ()
    ) -> Any:
        """The script's reply. Raises what redis-py raises: see `failures.translated`."""
        from redis.exceptions import NoScriptError

        call = Call(self, keys, arguments)
        try:
            return await client.execute_command(*call.by_digest)
        except NoScriptError:
            return await client.execute_command(*call.by_source)

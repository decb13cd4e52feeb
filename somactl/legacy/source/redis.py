"""The old service's values in Redis: strings with JSON in them, among hashes and other keys.

A change compares and sets by WATCH, MULTI and EXEC, not by a script: a value may have 100 MB, which Lua would
copy twice and compare while the server does nothing else. Here the client compares, and EXEC is refused if
another client was faster. That costs no more bytes on the wire than sending the old value to a script
would. A server whose memory is full takes no MULTI, so there nothing can be removed either.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from somactl.core.names import Pattern
from somactl.core.portions import in_portions
from somactl.errors import OutcomeUnknown, ReadOnlyStore, StoreBusy, StoreUnavailable
from somactl.legacy.source.contract import FETCH_BYTES, MAX_VALUE_BYTES, Change, Value
from somactl.legacy.source.workspace import to_bytes, to_text
from somactl.store.calls import reads_replies
from somactl.store.redis import connection
from somactl.store.redis.failures import reply as error_reply
from somactl.store.redis.link import Nodes
from somactl.store.redis.pool import Command, Reply

OWN_PREFIX = "somactl:"
"""What somactl's own store and cache write lies under these names: it is no value of the old service."""
SCAN_COUNT = 1000
FETCH_KEYS = 1000
SWAP_KEYS = 256
SWAP_BYTES = 32 << 20
"""Changes tried together, and their bytes, unless a single one is larger: while EXEC runs no other client
is served."""
_RESTARTS = 5
_TOGETHER = 3
_TRIES = 20
"""How often a batch of changes is tried before each is tried by itself, and that before it is given up."""
_TYPES = {"zset": "sorted set"}


@reads_replies(__name__, "")  # in this module too: who calls it gives it names alone
class RedisSource:
    """The database at `url`; see `somactl.legacy.source.contract.Source`. A cluster is not read.

    Constructing it touches nothing; raises ConfigurationError for a URL that is not understood. `timeout` is
    how long, in seconds, the server may take to answer, `connect_timeout` to accept a connection.
    """

    name = "redis"
    replaceable = True

    def __init__(
        self, url: str, *, read_only: bool = True, timeout: float = 60.0, connect_timeout: float = 5.0
    ) -> None:
        server = connection.parse(url, "source")
        self.identity = server.identity
        self.place = self._place = server.place
        self._read_only = read_only
        self._nodes = Nodes(server, timeout=timeout, connect_timeout=connect_timeout)
        self._link = self._nodes.link()
        self._known: tuple[object, object] = (None, None)

    async def names(self, match: Pattern | None) -> AsyncIterator[list[str]]:
        narrowed = ("MATCH", _glob(match.prefix)) if match is not None and match.prefix else ()
        for _ in range(_RESTARTS):
            await self._link.reach()
            process, cursor = await self._process(), 0
            while process == await self._process():
                (reply,) = await self._link.ask(("SCAN", cursor, *narrowed, "COUNT", SCAN_COUNT))
                cursor, keys = self._link.value(reply)
                cursor = int(cursor)
                chosen = [key for key in map(to_text, keys) if _is_wanted(key, match)]
                if chosen:
                    yield chosen
                if cursor == 0 and process == await self._process():
                    return
            # Another process keeps its keys in another order: it does not know where we were.
        raise StoreUnavailable(f"{self._place} was restarted {_RESTARTS} times while its keys were listed")

    async def fetch(self, keys: Sequence[str]) -> list[Value]:
        chosen = list(keys[:FETCH_KEYS])
        raw = [to_bytes(key) for key in chosen]
        about = await self._ask([command for key in raw for command in (("TYPE", key), ("STRLEN", key))])
        types = [self._link.value(reply).decode() for reply in about[::2]]
        sizes = [self._length(reply) for reply in about[1::2]]
        count = _within_limit(sizes)
        wanted = [i for i in range(count) if types[i] == "string" and sizes[i] <= MAX_VALUE_BYTES]
        replies = await self._ask(
            [command for i in wanted for command in (("GET", raw[i]), ("PEXPIRETIME", raw[i]))]
        )
        values = [_without_data(chosen[i], types[i], sizes[i]) for i in range(count)]
        for i, data, expiry in zip(wanted, replies[::2], self._link.values(replies[1::2]), strict=True):
            values[i] = self._text(chosen[i], data, int(expiry))
        return values

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        if self._read_only:
            raise ReadOnlyStore(f"a change was asked of {self._place}, which is open for reading only")
        results: list[bool] = []
        for batch in in_portions(
            changes, lambda change: change.size, SWAP_BYTES, SWAP_KEYS, name=lambda change: change.key
        ):
            results += await self._swap_or_each(batch)
        return results

    async def close(self) -> None:
        await self._nodes.close()

    async def _ask(self, commands: Sequence[Command]) -> list[Reply]:
        return await self._link.ask(*commands) if commands else []

    async def _process(self) -> object:
        """Changes where another process may answer than before: its run id, or where that is kept from us the
        connection itself."""
        connects = self._link.connects
        if self._known[0] != connects:
            (reply,) = await self._link.ask(("INFO", "server"))
            lines = [] if isinstance(reply, Exception) else bytes(reply).splitlines()
            run_id = next((line for line in lines if line.startswith(b"run_id:")), None)
            self._known = (self._link.connects, run_id or self._link.connects)
        return self._known[1]

    def _length(self, reply: Reply) -> int:
        """That of a string; 0 for anything else."""
        return 0 if _is_other(reply) else int(self._link.value(reply))

    def _text(self, key: str, reply: Reply, expiry: int) -> Value:
        """The value that was there a moment ago; `expiry` in milliseconds, negative for none."""
        if _is_other(reply):
            return Value(key, "other", detail="no Redis string any more")
        data = self._link.value(reply)
        if data is None:
            return Value(key, "gone")
        return Value(key, "text", bytes(data), expires_at=expiry / 1000 if expiry >= 0 else None)

    async def _swap_or_each(self, changes: list[Change]) -> list[bool]:
        """All changes together; one by one where others write to the same keys all the time."""
        single = len(changes) == 1
        for _ in range(_TRIES if single else _TOGETHER):
            results = await self._swap(changes)
            if results is not None:
                return results
        if single:
            raise StoreBusy(
                f"{self._place}: another client writes {changes[0].key!r} faster than it can be compared",
                hint="stop the old service before its values are replaced",
            )
        return [made for change in changes for made in await self._swap_or_each([change])]

    async def _swap(self, changes: list[Change]) -> list[bool] | None:
        """Make the changes of one batch, in which no key stands twice; None where another was faster."""
        keys = [to_bytes(change.key) for change in changes]
        async with self._nodes.pool().pinned() as exchange:
            watched, *found = await exchange([("WATCH", *keys), *(("GET", key) for key in keys)])
            self._link.value(watched)
            found = [reply if _is_other(reply) else self._link.value(reply) for reply in found]
            results = [_stands(change.after, reply) for change, reply in zip(changes, found, strict=True)]
            todo = [
                i for i, change in enumerate(changes) if not results[i] and _stands(change.before, found[i])
            ]
            if not todo:
                self._link.values(await exchange([("UNWATCH",)]))
                return results
            commands = [command for i in todo for command in _commands(keys[i], changes[i])]
            try:
                replies = await exchange([("MULTI",), *commands, ("EXEC",)])
            except StoreUnavailable as exc:
                raise OutcomeUnknown(
                    f"{self._place} did not confirm the changes of {len(todo)} values: {exc.message}",
                    commit_id="",
                    hint="run it again: what was done is recognised",
                ) from exc
            self._link.values(replies)
            if replies[-1] is None:
                return None
            for i, there in zip(todo, self._link.values(replies[-1])[1::2], strict=True):
                results[i] = bool(there) == (changes[i].after is not None)
            return results


def _is_wanted(key: str, match: Pattern | None) -> bool:
    return not key.startswith(OWN_PREFIX) and (match is None or match.matches(key))


def _glob(prefix: str) -> bytes:
    """What Redis's MATCH takes for every key of that prefix. The rest of a pattern stays with us: Redis means
    one byte by `?` and knows brackets, and many a `*` keeps it busy for long."""
    quoted = b"".join(b"\\" + bytes([c]) if c in b"*?[]\\" else bytes([c]) for c in to_bytes(prefix))
    return quoted + b"*"


def _is_other(reply: Reply) -> bool:
    """Whether Redis refused a command for strings because the key holds something else."""
    return isinstance(reply, Exception) and error_reply(reply)[0] == "WRONGTYPE"


def _stands(wanted: bytes | None, found: Reply) -> bool:
    return not _is_other(found) and wanted == (None if found is None else bytes(found))


def _within_limit(sizes: Sequence[int]) -> int:
    """How many of the first values have FETCH_BYTES together; one at least."""
    total = 0
    for i, size in enumerate(sizes):
        if size > MAX_VALUE_BYTES:
            continue  # it is not fetched
        if total and total + size > FETCH_BYTES:
            return i
        total += size
    return len(sizes)


def _without_data(key: str, type_: str, size: int) -> Value:
    """What its type and length already tell of a value."""
    if type_ == "none":
        return Value(key, "gone")
    if type_ != "string":
        return Value(key, "other", detail=f"a Redis {_TYPES.get(type_, type_)}")
    return Value(key, "unreadable", detail=f"{size / 1e6:.0f} MB of text")


def _commands(key: bytes, change: Change) -> tuple[Command, Command]:
    """What makes the change, while no other client can, and then asks whether the key is there.

    It is not where its time was over before it was put back.
    """
    if change.after is None:
        return ("UNLINK", key), ("EXISTS", key)
    if change.before is not None:
        return ("SET", key, change.after, "KEEPTTL"), ("EXISTS", key)
    until = () if change.expires_at is None else ("PXAT", max(1, round(change.expires_at * 1000)))
    return ("SET", key, change.after, "NX", *until), ("EXISTS", key)

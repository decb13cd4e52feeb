"""Notes: small things that operations remember beside the matrices.

The data of note N is the string `note:N`; `noted` says of each its version, when it was written, its size and
its digest, so that data and facts of different versions are never taken for one. As in a commit, one script
checks everything and then writes; large data are staged before it, and what they replace is freed behind it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import msgspec
import xxhash

from somactl.core.portions import in_portions
from somactl.errors import SomactlError, StoreBusy, StoreDamaged, StoreUnavailable
from somactl.store.contract import Note
from somactl.store.notes import refuse_note_conflicts
from somactl.store.redis import layout
from somactl.store.redis.pool import Argument, Call, Script
from somactl.store.redis.reading import Reader

READ = Script("note_read")
WRITE = Script("note_write")
PAGE = Script("note_page")

STAGED_MS = 10 * 60 * 1000
"""How long staged data wait for their script, and what they replaced to be freed."""
_INLINE_BYTES = 64 << 10
_READ_BYTES = 256 << 10
_BATCH_BYTES = 8 << 20
_PIECE_BYTES = 8 << 20
_NAMES = 1000
"""Names in one command or script, some 1 ms."""
_ATTEMPTS = 20


class Facts(msgspec.Struct, frozen=True):
    """What `noted` says of a note."""

    version: int
    written_at: float
    size: int
    digest: str


def _facts(name: str, text: bytes) -> Facts:
    try:
        version, written_at, size, digest = text.decode().split(" ")
        return Facts(int(version), float(written_at), int(size), digest)
    except ValueError as exc:
        raise StoreDamaged(f"what is told of note {name!r} is not what was written ({exc})") from exc


def _digest(data: bytes | bytearray | memoryview) -> str:
    return xxhash.xxh3_128_hexdigest(data)


# Writing


async def write(
    reader: Reader, changes: Mapping[str, bytes | None], expected: Mapping[str, int]
) -> dict[str, int]:
    """See `Store.write_notes`; the request has passed `check_notes`."""
    names, token = reader.names, layout.token()
    stage = [names.stage(token, number) for number in range(len(changes))]
    trash = [names.trash(token, number) for number in range(len(changes))]
    size = sum(len(data) for data in changes.values() if data is not None)
    inline = size <= _INLINE_BYTES
    keys: list[Argument] = [names.head, names.notes, names.noted]
    arguments: list[Argument] = [layout.LAYOUT, STAGED_MS, len(changes)]
    for (name, data), staged, out in zip(changes.items(), stage, trash, strict=True):
        keys += names.note(name), staged, out
        told = "" if data is None else f"{len(data)} {_digest(data)}"
        arguments += name, told, data if inline and data is not None else b""
    for name, version in expected.items():
        arguments += name, version
    try:
        if not inline:
            await _stage(reader, stage, list(changes.values()))
        (reply,) = await reader.link.ask(Call(WRITE, keys, arguments), commit_id="")
        what, *told_back = reader.link.written(reply, "")
    except SomactlError as exc:
        if not inline and "reply" in exc.facts:  # a server that has not answered would keep us waiting
            await _unlink(reader, stage)
        raise
    if what == b"done":
        versions, trashed = told_back
        await _unlink(reader, [trash[int(number) - 1] for number in trashed])
        return {name: int(version) for name, version in zip(changes, versions, strict=True)}
    if not inline:
        await _unlink(reader, stage)
    if what == b"missing":
        raise await reader.absence()
    if what == b"newer":
        raise layout.newer_to_write(names.namespace, told_back[0])
    if what == b"conflict":
        refuse_note_conflicts(expected, dict(zip(expected, map(int, told_back[0]), strict=True)))
    raise StoreUnavailable(
        f"the data of note {bytes(told_back[0]).decode()!r} were gone before they were taken",
        hint="run it again; a server that is so slow, or so full, deserves a look",
    )


async def _stage(reader: Reader, stage: Sequence[str], values: Sequence[bytes | None]) -> None:
    """Put all data under names that vanish by themselves, in portions of bounded size."""
    data = [(name, value) for name, value in zip(stage, values, strict=True) if value]
    for batch in in_portions(data, lambda each: len(each[1]), _BATCH_BYTES, _NAMES):
        commands = (("SET", name, value, "PX", STAGED_MS) for name, value in batch)
        reader.link.values(await reader.link.ask(*commands))


async def _unlink(reader: Reader, names: Sequence[str]) -> None:
    """Free what would also vanish by itself; that this fails is no failure of the write."""
    with contextlib.suppress(SomactlError):
        for name in names:  # one at a time: freeing 256 MiB takes the server some 20 ms
            await reader.link.ask(("UNLINK", name))


# Reading


async def read(reader: Reader, names: Sequence[str]) -> dict[str, Note]:
    """See `Store.read_notes`.

    One script sees all of them at one moment, and sends small data along. Large data are fetched behind it,
    and must have the digest that they had then.
    """
    before: dict[str, Facts] | None = None
    for _ in range(_ATTEMPTS):
        facts, data = await _inspect(reader, names)
        for name, told in facts.items():
            if data[name] is None:
                data[name] = await _in_pieces(reader, name, told.size)
        other = [name for name, told in facts.items() if _digest(data[name] or b"") != told.digest]
        if not other:
            return {
                name: Note(name, told.version, told.size, told.written_at, data[name])
                for name, told in facts.items()
            }
        if facts == before:
            raise layout.damaged(
                reader.names.namespace, f"the data of note {other[0]!r} are not what was written"
            )
        before = facts
    raise StoreBusy(
        f"one of {len(names)} notes was written faster than it could be read", hint="run it again"
    )


async def _inspect(reader: Reader, names: Sequence[str]) -> tuple[dict[str, Facts], dict[str, bytes | None]]:
    """What `noted` says of the notes that there are, and the data that came with it."""
    keys = [reader.names.head, reader.names.noted, *map(reader.names.note, names)]
    fields, texts, data = await reader.link.call(READ, keys, [_READ_BYTES, *names])
    await reader.existing(fields)
    facts = {name: _facts(name, text) for name, text in zip(names, texts, strict=True) if text is not None}
    return facts, dict(zip(names, data, strict=True))


async def _in_pieces(reader: Reader, name: str, size: int) -> bytes:
    """Large data, so that the server does not hold them a second time."""
    data = bytearray()
    while len(data) <= size:
        start, end = len(data), min(len(data) + _PIECE_BYTES, size + 1)
        command = ("GETRANGE", reader.names.note(name), start, end - 1)
        (piece,) = reader.link.values(await reader.link.ask(command))
        data += piece
        if len(data) < end:
            break
    return bytes(data)


async def page(reader: Reader, prefix: str, after: str | None) -> tuple[list[Note], str | None]:
    """One page of `Store.scan_notes` (perhaps empty), and the name to go on after; None at the end."""
    names = reader.names
    start = f"[{prefix}" if prefix else "-"
    if after is not None and after >= prefix:
        start = f"({after}"
    fields, found, facts = await reader.link.call(
        PAGE, [names.head, names.notes, names.noted], [start, _NAMES]
    )
    await reader.existing(fields)
    notes = []
    for name, text in zip((bytes(each).decode() for each in found), facts, strict=True):
        if not name.startswith(prefix):
            break
        if text is None:
            raise layout.damaged(names.namespace, f"what was told of note {name!r} is gone")
        told = _facts(name, text)
        notes.append(Note(name, told.version, told.size, told.written_at))
    return notes, notes[-1].name if len(notes) == _NAMES else None

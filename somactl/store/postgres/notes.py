"""Notes: what operations remember beside the matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter

from somactl.core.portions import in_portions
from somactl.errors import OutcomeUnknown
from somactl.store.contract import Note
from somactl.store.notes import refuse_note_conflicts
from somactl.store.postgres import failures, reading, records
from somactl.store.postgres.session import Session, milliseconds, seconds_for
from somactl.store.reading import no_namespace

_PAGE_NOTES = 1000


async def read(session: Session, namespace: str, names: Sequence[str]) -> dict[str, Note]:
    """Small notes come in one round trip; where there are large ones, all of them come in portions, as of one
    moment, each portion with time of its own."""
    rows = await session.rows("notes", namespace, list(names), reading.AT_ONCE_BYTES)
    if not rows:
        raise no_namespace(namespace)
    found = [row for row in rows if row["name"] is not None]
    if all(row["data"] is not None for row in found):
        return {row["name"]: records.note(row, row["data"]) for row in found}
    notes: dict[str, Note] = {}
    async with session.transaction(snapshot=True, extra=seconds_for(reading.AT_ONCE_BYTES)):
        rows = await session.rows("notes", namespace, list(names), -1)
        found = [row for row in rows if row["name"] is not None]
        for portion in in_portions(found, itemgetter("size"), reading.AT_ONCE_BYTES):
            size = sum(row["size"] for row in portion)
            for row in await session.rows(
                "notes", namespace, [row["name"] for row in portion], size, extra=seconds_for(size)
            ):
                notes[row["name"]] = records.note(row, row["data"])
    return notes


async def write(
    session: Session, namespace: str, changes: Mapping[str, bytes | None], expected: Mapping[str, int]
) -> dict[str, int]:
    """One statement, whatever its size: the lock is taken when all of it has arrived."""
    values = [value for value in changes.values() if value is not None]
    data = values[0] if len(values) == 1 else b"".join(values)
    await session.learn("write_notes")
    session.require_open()
    try:
        row = await session.row(
            "write_notes",
            namespace,
            str(milliseconds(session.lock_patience)),
            list(changes),
            [None if value is None else str(len(value)) for value in changes.values()],
            data,
            list(expected),
            [str(version) for version in expected.values()],
            extra=seconds_for(len(data)),
        )
    except Exception as exc:
        if failures.is_answer(exc):
            raise
        session.connection.terminate()
        raise OutcomeUnknown(
            f"notes were sent to {session.place}, and no answer came ({exc or type(exc).__name__}): "
            "they may be written or not",
            hint="read them again",
            commit_id="",
        ) from exc
    assert row is not None  # the function returns one row
    if row["there"] is None:
        raise no_namespace(namespace)
    if row["versions"] is None:
        refuse_note_conflicts(expected, dict(zip(expected, map(int, row["there"]), strict=True)))
    return dict(zip(changes, map(int, row["versions"]), strict=True))


async def page(
    session: Session, namespace: str, prefix: str, after: str | None
) -> tuple[list[Note], str | None]:
    """One page of `Store.scan_notes` (perhaps empty), and the name to go on after; None at the end."""
    end = reading.end_of(prefix)
    rows = await session.rows("note_page", namespace, prefix, end, after or "", _PAGE_NOTES)
    if not rows:
        raise no_namespace(namespace)
    notes = [records.note(row) for row in rows if row["name"] is not None]
    return notes, notes[-1].name if len(notes) == _PAGE_NOTES else None

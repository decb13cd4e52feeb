"""The keys whose last check found something: what the claims of a ledger leave out, by name.

An audit checks these keys whatever the ledger says of their ranges. A key leaves the list when a later read
proves it, or finds it gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec.structs import replace

from somactl.errors import CorruptValue
from somactl.operations.audit.ledger import subject_digest
from somactl.operations.jobs.checkpoint import decode_note
from somactl.store.contract import Note

PREFIX = "audit/findings/"
MAX_KNOWN_BAD = 10_000
MAX_ERROR_CHARACTERS = 300


class KnownBad(msgspec.Struct, frozen=True):
    """One key that was not proven when it was last read.

    version     of the value that was read
    content     its digest (hex); None where the bytes did not tell
    outcome     what the check said, in the words of the report
    first_seen  since when this content is known to be bad, and
    last_seen   when it was last read: the store's time, in seconds
    """

    key: str
    version: int
    content: str | None
    outcome: str
    first_seen: float
    last_seen: float
    error: str | None = None


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """The note of them, which belongs to what the ledger beside it belongs to."""

    incarnation: str
    tolerances: dict[str, float]
    method: str
    known: tuple[KnownBad, ...] = ()
    format: int = 1


def findings_name(tolerances: Mapping[str, float], method: str) -> str:
    return PREFIX + subject_digest(tolerances, method)


def decode_findings(note: Note) -> Findings:
    """Raises SchemaMismatch for a newer format, CorruptValue for what is no list of findings."""
    findings = decode_note(note, Findings)
    if len({each.key for each in findings.known}) != len(findings.known):
        raise CorruptValue(f"note {note.name!r} names a key twice", note=note.name)
    return findings


def updated(
    known: Mapping[str, KnownBad], found: Iterable[KnownBad], cleared: Mapping[str, float]
) -> dict[str, KnownBad]:
    """`known` with what an audit found, and without what it cleared: key -> when it was read, proven or gone.

    The later read of a key decides; of two at the same time, the one that found something.
    """
    result = {
        key: each for key, each in known.items() if key not in cleared or each.last_seen >= cleared[key]
    }
    for each in found:
        if each.key not in cleared or each.last_seen >= cleared[each.key]:
            result[each.key] = _together(result.get(each.key), each)
    return result


def _together(known: KnownBad | None, found: KnownBad) -> KnownBad:
    found = replace(found, error=found.error and found.error[:MAX_ERROR_CHARACTERS])
    if known is None:
        return found
    latest = known if known.last_seen > found.last_seen else found
    same = (known.content, known.version) == (found.content, found.version)
    return replace(latest, first_seen=min(known.first_seen, found.first_seen)) if same else latest

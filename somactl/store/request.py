"""What every store decides about a commit before it writes: pure functions, shared by all stores.

`prepare` checks a request by itself and gives it its identity; `resolve_replay` compares it with what is
recorded of its commit id; `refuse_expired` and `refuse_conflicts` compare it with the state of the namespace.
A store brings the state and the transaction, and decides nothing of its own.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import xxhash
from msgspec.structs import replace

from somactl.core import framing
from somactl.core.framing import Header
from somactl.core.names import commit_id_time, validate_commit_id, validate_key, validate_namespace
from somactl.errors import (
    CommitAborted,
    CommitExpired,
    CommitIdReused,
    EmptyCommit,
    EnvelopeError,
    InputRejected,
    LimitExceeded,
    VerdictMissing,
    VersionConflict,
)
from somactl.store.contract import CommitMetadata, Expect, Expected, Retention
from somactl.store.events import summarise
from somactl.store.model import VerdictSummary
from somactl.suggestion import again, run

MAX_COMMIT_KEYS = 65_536
MAX_USER_METADATA_BYTES = 64 << 10
MAX_FACTS_BYTES = 64 << 10
MAX_GRACE_SECONDS = 100 * 366 * 86_400.0
MAX_RETAINED_VERSIONS = 1_000_000
REFUSABLE = ("clampable", "undecided", "violated")
"""What a verdict may say of a rho that is admitted in the dark."""
_IDEMPOTENCY_KEY = re.compile(r"[ -~]{1,256}\Z")


class Put(msgspec.Struct, frozen=True):
    """One verified envelope and the verdict that came with it, already as JSON text."""

    data: bytes | memoryview
    header: Header
    verdict: str | None


class Request(msgspec.Struct, frozen=True):
    """A commit that is sound in itself.

    updates       key -> Put, or None for a delete, in the caller's order
    expectations  key -> what must hold, the guards among them; keys without a precondition do not stand here
    metadata      as given, its verdicts reduced to those of `updates`
    identity      hex digest over content digests, expectations and user metadata: equal for a replay
    """

    namespace: str
    commit_id: str
    updates: Mapping[str, Put | None]
    expectations: Mapping[str, Expect]
    metadata: CommitMetadata
    identity: str

    @property
    def contents(self) -> dict[str, str | None]:
        """Key -> content digest, None for a delete: what a receipt lists."""
        return {key: put.header.content if put else None for key, put in self.updates.items()}

    @property
    def summary(self) -> VerdictSummary | None:
        """Of the verdicts of all its rho values, for the commit's event."""
        contents = [put.header.content for put in self.updates.values() if put and put.header.kind == "rho"]
        return summarise(self.metadata.verdicts[content] for content in contents)


class KeyState(msgspec.Struct, frozen=True):
    """Where a key is: its live version (0: absent), its content digest, or since when it is deleted."""

    version: int = 0
    content: str | None = None
    deleted_since: int | None = None


ABSENT = KeyState()


def prepare(
    namespace: str,
    updates: Mapping[str, bytes | memoryview | None],
    metadata: CommitMetadata,
    expected: Expected,
    commit_id: str,
) -> Request:
    """Check everything that can be checked without the store's state.

    Raises InvalidName, EmptyCommit, LimitExceeded, EnvelopeError (the message names the key),
    VerdictMissing, InputRejected.
    """
    validate_namespace(namespace)
    validate_commit_id(commit_id)
    if not updates:
        raise EmptyCommit("the commit has no updates", hint="name at least one key to write or delete")
    _check_limits(updates)
    user = _user_metadata(metadata.user)
    _check_idempotency_key(metadata.idempotency_key)
    _check_grace(metadata.grace)
    _check_facts(metadata.facts)
    puts: dict[str, Put | None] = {}
    verdicts: dict[str, Mapping[str, Any]] = {}
    for key, data in updates.items():
        if data is None:
            puts[key] = None
            continue
        header = _verified(data, namespace, key)
        verdict = metadata.verdicts.get(header.content)
        puts[key] = Put(data, header, _verdict_text(header, verdict, dark=metadata.dark))
        if verdict is not None:
            verdicts[header.content] = dict(verdict)
    expectations = normalise(expected, updates)
    contents = {key: put.header.content if put else None for key, put in puts.items()}
    return Request(
        namespace,
        commit_id,
        puts,
        _guarded(expectations, metadata.guards),
        replace(metadata, user=user, verdicts=verdicts),
        _identity(contents, expectations, user, metadata.idempotency_key),
    )


def _check_limits(updates: Mapping[str, bytes | memoryview | None]) -> None:
    """Sizes first: nothing is hashed for a commit that is too large anyway."""
    if len(updates) > MAX_COMMIT_KEYS:
        raise LimitExceeded(
            f"the commit has {len(updates)} keys; at most {MAX_COMMIT_KEYS} are allowed",
            hint="split it into several commits",
        )
    total = 0
    for key, data in updates.items():
        validate_key(key)
        size = 0 if data is None else memoryview(data).nbytes
        total += size
        if size > framing.MAX_ENVELOPE_BYTES:
            raise LimitExceeded(
                f"the envelope of {key!r} has {size} bytes; at most {framing.MAX_ENVELOPE_BYTES} are allowed",
                hint="a hermitian layout halves it, and float32 halves it again",
            )
    if total > framing.MAX_COMMIT_BYTES:
        raise LimitExceeded(
            f"the commit has {total} bytes; at most {framing.MAX_COMMIT_BYTES} are allowed",
            hint="split it into several commits",
        )


def _verified(data: bytes | memoryview, namespace: str, key: str) -> Header:
    try:
        return framing.verify(data, namespace=namespace, key=key)
    except EnvelopeError as exc:
        exc.about(repr(key))
        raise


def _verdict_text(header: Header, verdict: Mapping[str, Any] | None, *, dark: bool) -> str | None:
    """The verdict as JSON text; a rho is refused here unless it says `valid`, or is admitted in the dark."""
    if header.kind == "rho" and not _admits(verdict or {}, dark=dark):
        status = "no verdict" if verdict is None else f"the verdict {verdict.get('status')!r}"
        raise VerdictMissing(
            f"the rho of {header.key!r} comes with {status}; a store takes only what is proven valid",
            hint="commit through commit_matrix_update, which proves it first",
        )
    if verdict is None:
        return None
    try:
        return json.dumps(dict(verdict), allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as exc:
        raise InputRejected(f"the verdict of {header.key!r} is not made of JSON values: {exc}") from None


def _admits(verdict: Mapping[str, Any], *, dark: bool) -> bool:
    """Whether a rho with that verdict may be stored. `dark`: by a commit that is made in dark mode.

    A mark on what is valid would say that it is not, and is refused as well.
    """
    status, marked = verdict.get("status"), verdict.get("dark", False)
    if status == "valid":
        return marked is False
    return dark and marked is True and status in REFUSABLE


def _user_metadata(user: Mapping[str, str]) -> dict[str, str]:
    size = 0
    for name, value in user.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InputRejected(f"metadata {name!r}: names and values are text")
        try:
            size += len(name.encode()) + len(value.encode())
        except UnicodeEncodeError:
            raise InputRejected(f"metadata {name!r} is not valid UTF-8") from None
    if size > MAX_USER_METADATA_BYTES:
        raise LimitExceeded(
            f"the metadata have {size} bytes; at most {MAX_USER_METADATA_BYTES} are allowed",
            hint="put a reference into the metadata instead of the thing itself",
        )
    return dict(user)


def normalise(expected: Expected, keys: Mapping[str, object]) -> dict[str, Expect]:
    """Expectations key by key, without those that demand nothing.

    `keys` are the updates, to which one expectation for all is applied. Raises InvalidName, InputRejected.
    """
    if expected is None:
        return {}
    by_key = expected if isinstance(expected, Mapping) else dict.fromkeys(keys, expected)
    normal: dict[str, Expect] = {}
    for key, one in by_key.items():
        expect = one if isinstance(one, Expect) else Expect(version=one)
        version = expect.version
        if version is not None and (isinstance(version, bool) or not isinstance(version, int) or version < 0):
            raise InputRejected(
                f"the expected version of {validate_key(key)!r} is {version!r}; it is a number from 0"
            )
        if expect != Expect():
            normal[key if key in keys else validate_key(key)] = expect
    return normal


def _guarded(expectations: Mapping[str, Expect], guards: Mapping[str, int]) -> dict[str, Expect]:
    """The expectations with a guard's version for each key whose value they leave open."""
    guarded = dict(expectations)
    for key, guard in normalise(guards, guards).items():
        expect = guarded.get(key, guard)
        open_ = expect.version is None and expect.content is None
        guarded[key] = replace(expect, version=guard.version) if open_ else expect
    return guarded


def _check_idempotency_key(idempotency_key: str | None) -> None:
    if idempotency_key is not None and not (
        isinstance(idempotency_key, str) and _IDEMPOTENCY_KEY.match(idempotency_key)
    ):
        raise InputRejected(
            "an idempotency key is 1-256 printable ASCII characters",
            hint="name a digest of it instead of the thing itself",
        )


def _check_grace(grace: float | None) -> None:
    if grace is None:
        return
    number = isinstance(grace, int | float) and not isinstance(grace, bool)
    if not number or not 0 <= grace <= MAX_GRACE_SECONDS:
        raise InputRejected(
            f"a grace of {grace!r} s cannot be kept", hint=f"it is a time from 0 to {MAX_GRACE_SECONDS:g} s"
        )


def _check_facts(facts: Mapping[str, Any]) -> None:
    try:
        size = len(json.dumps(dict(facts), allow_nan=False, ensure_ascii=False).encode())
        if not _named_by_text(facts):  # as JSON other names would come back as text, or not be written at all
            raise TypeError("their names are text")
    except (TypeError, ValueError, RecursionError) as exc:
        raise InputRejected(f"the facts of the commit are not made of JSON values: {exc}") from None
    if size > MAX_FACTS_BYTES:
        raise LimitExceeded(f"the facts have {size} bytes; at most {MAX_FACTS_BYTES} are allowed")


def _named_by_text(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and _named_by_text(part) for name, part in value.items())
    return not isinstance(value, list | tuple) or all(map(_named_by_text, value))


def _identity(
    contents: Mapping[str, str | None],
    expectations: Mapping[str, Expect],
    user: Mapping[str, str],
    idempotency_key: str | None,
) -> str:
    """xxh3_128 (hex) over canonical JSON: sorted keys, no white space, ASCII.

    It tells a retry from a mistake, not from an attack: a caller who may commit at all needs no collision.
    """
    if idempotency_key is not None:
        request: list[Any] = [idempotency_key, dict(user)]
    else:
        expects = {key: [e.version, e.incarnation, e.content] for key, e in expectations.items()}
        request = [contents, expects, dict(user)]
    text = json.dumps(request, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(text.encode())


def resolve_replay(request: Request, recorded_identity: str | None) -> None:
    """Compare a request with the record found under its commit id; returns where it is a replay.

    `recorded_identity` is None for an aborted record. Raises CommitAborted, CommitIdReused.
    """
    if recorded_identity is None:
        raise CommitAborted(
            f"commit {request.commit_id} was given up when its outcome was asked for, and must not arrive",
            hint="commit again under a new id",
            next=again(commit_id=None),
            commit_id=request.commit_id,
        )
    if recorded_identity != request.identity:
        raise CommitIdReused(
            f"commit {request.commit_id} is recorded with other keys, contents, expectations or metadata",
            hint="use a new id for a new commit",
            next=[run("status", request.commit_id), again(commit_id=None)],
            commit_id=request.commit_id,
        )


def refuse_expired(commit_id: str, now: float, retention: Retention, records_removed_until: float) -> None:
    """Refuse a generated id that can no longer be proven unused; raises CommitExpired.

    Only for an id without a record. `now` is the store's clock; `records_removed_until` is the latest
    time up to which `compact` ever removed records, so that neither a longer retention nor a clock that
    was set back lets an old id in twice.
    """
    created = commit_id_time(commit_id)
    horizon = max(now - retention.record_seconds, records_removed_until)
    if created is not None and created <= horizon:
        raise CommitExpired(
            f"commit id {commit_id} is {now - created:.0f} s old, and records are kept for "
            f"{retention.record_seconds:.0f} s: whether it was committed before can no longer be told",
            hint="see whether it stands, then commit under a new id",
            next=[run("log"), again(commit_id=None)],
            commit_id=commit_id,
        )


def refuse_conflicts(
    expectations: Mapping[str, Expect],
    incarnation: str | None,
    found: Mapping[str, KeyState],
    newest: int | None = None,
) -> None:
    """Raise VersionConflict naming every key of `expectations` that is not where it was expected.

    `found` holds the keys that were ever written; `incarnation` is None where there is no namespace yet, and
    `newest`, its version, where it was not looked up.
    """
    conflicts: dict[str, dict[str, Any]] = {}
    sentences: list[str] = []
    for key, expect in expectations.items():
        state = found.get(key, ABSENT)
        wanted = {"version": expect.version, "incarnation": expect.incarnation, "content": expect.content}
        there = {"version": state.version, "incarnation": incarnation, "content": state.content}
        wrong = [part for part, value in wanted.items() if value is not None and value != there[part]]
        if not wrong:
            continue
        conflicts[key] = {
            "expected": {part: value for part, value in wanted.items() if value is not None},
            "found": {**there, "deleted_since": state.deleted_since},
        }
        sentences.append(_sentence(key, wrong[0], wanted[wrong[0]], there[wrong[0]], state))
    if conflicts:
        more = f"; and {len(sentences) - 3} more" if len(sentences) > 3 else ""
        beyond = max(expect.version or 0 for expect in expectations.values())
        if newest is not None and beyond > newest:
            more += (
                f"; version {beyond} was never reached here, where {newest} is the newest: it is another "
                "namespace's, or the store has lost what it had acknowledged"
            )
        raise VersionConflict(
            "; ".join(sentences[:3]) + more,
            conflicts=conflicts,
            hint="nothing was written; read the keys again before you repeat the commit",
            next=[
                *(run("show", key, from_="authority") for key in list(conflicts)[:3]),
                *([run("doctor")] if newest is not None and beyond > newest else []),
            ],
        )


def _sentence(key: str, part: str, wanted: object, there: object, state: KeyState) -> str:
    if part == "version":
        place = f"at version {there}" if state.version else "absent"
        if state.deleted_since is not None:
            place = f"deleted since version {state.deleted_since}"
        goal = f"at version {wanted}" if wanted else "absent"
        return f"{key!r} was expected {goal} and is {place}"
    return f"{key!r} was expected with {part} {wanted} and has {there or 'none'}"


def fresh_incarnation() -> str:
    """128 random bits as hex: two incarnations never meet by accident."""
    return os.urandom(16).hex()


def new_commit_id() -> str:
    """A UUIDv7 (RFC 9562 5.7). The client's clock in it is a label; the store's clock decides expiry."""
    milliseconds = time.time_ns() // 1_000_000
    bits = (milliseconds & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10), "big")
    bits = bits & ~(0xF << 76) | 0x7 << 76
    bits = bits & ~(0x3 << 62) | 0x2 << 62
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def check_retention(retention: Retention) -> Retention:
    """Refuse a retention that would remove live values or means nothing; raises InputRejected."""
    times = (retention.seconds, retention.record_seconds)
    versions = isinstance(retention.versions, int) and 1 <= retention.versions <= MAX_RETAINED_VERSIONS
    if not versions or not all(0 <= seconds < float("inf") for seconds in times):
        raise InputRejected(
            f"the retention {retention} keeps less than one version, or for no finite time from 0",
            hint=f"keep 1 to {MAX_RETAINED_VERSIONS} versions, for 0 or more seconds",
        )
    return retention

"""Arguments that are refused by themselves, whatever the store holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from somactl.core.framing import MAX_ENVELOPE_BYTES
from somactl.errors import (
    BadMagic,
    DigestMismatch,
    EmptyCommit,
    InputRejected,
    InvalidName,
    LimitExceeded,
    SomactlError,
    TrailingBytes,
    Truncated,
    VerdictMissing,
    WrongAddress,
)
from somactl.store.contract import MAX_NOTE_BYTES, CommitMetadata, Expect, Retention, Store
from somactl.testing.backend import Backend
from somactl.testing.contract_tests import ContractTests
from somactl.testing.values import content_of, envelope, proof, put

GOOD, RHO = envelope("a"), envelope("a", kind="rho")
ENDLESS: dict[str, Any] = {}
ENDLESS["x"] = [ENDLESS]
BAD_KEYS = ["", "a\nb", "a\0", "k" * 1025, "\ud800"]
BAD_IDS = ["", "with space", "x" * 129, "new\nline"]
BAD_NOTES = ["a b", "a\n", "\u00e9", "a*", "a\\", "a%", "a\0", "{a}", "x" * 257]
NOT_A_NUMBER, INFINITE = float("nan"), float("inf")

BAD_UPDATES: list[tuple[type[SomactlError], dict[str, Any]]] = [
    (EmptyCommit, {}),
    *((InvalidName, {key: None}) for key in BAD_KEYS),
    (BadMagic, {"a": b"[[1, 0], [0, 0]]"}),
    (Truncated, {"a": GOOD[:-1]}),
    (Truncated, {"a": b""}),
    (TrailingBytes, {"a": GOOD + b"\0"}),
    (DigestMismatch, {"a": GOOD[:-1] + bytes([GOOD[-1] ^ 1])}),
    (DigestMismatch, {"a": GOOD[:40] + bytes([GOOD[40] ^ 1]) + GOOD[41:]}),
    (WrongAddress, {"b": GOOD}),
    (WrongAddress, {"a": envelope("a", namespace="other")}),
    (WrongAddress, {"a": GOOD, "b": GOOD}),
    (VerdictMissing, {"a": RHO}),
    (LimitExceeded, {"a": bytes(MAX_ENVELOPE_BYTES + 1)}),
    (LimitExceeded, dict.fromkeys("abcde", memoryview(bytes(MAX_ENVELOPE_BYTES)))),
]
UNPROVEN: list[dict[str, Any]] = [
    *({content_of(RHO): {"status": status}} for status in ("clampable", "violated", "undecided", None)),
    proof(envelope("a", 1, kind="rho")),
]
BAD_METADATA: list[dict[str, Any]] = [
    {"user": {"n": 1}},
    {"user": {"n": "\ud800"}},
    {"user": {"n": "x" * 100_000}},
    {"verdicts": {content_of(RHO): {"status": "valid", "x": NOT_A_NUMBER}}},
    {"verdicts": {content_of(RHO): {"status": "valid", "x": object()}}},
    *({"facts": {"x": bad}} for bad in (NOT_A_NUMBER, [-INFINITE], object(), "\ud800", "x" * 100_000)),
    {"facts": {1: "x"}},
    {"facts": ENDLESS},
    *({"idempotency_key": bad} for bad in ("", "x" * 257, "a\nb", "\u00e9", 7)),
    *({"grace": bad} for bad in (-1.0, INFINITE, NOT_A_NUMBER, 1e12, "1", True)),
]
BAD_EXPECTATIONS: list[Any] = [-1, True, {"a": 1.5}, {"a\n": 1}, {"a": Expect(version=-2)}]
BAD_RETENTIONS = [
    Retention(versions=0),
    Retention(versions=10**30),
    Retention(seconds=-1.0),
    Retention(record_seconds=NOT_A_NUMBER),
    Retention(seconds=INFINITE),
]
BAD_NOTE_WRITES: list[tuple[type[SomactlError], tuple[Any, ...]]] = [
    (EmptyCommit, ({},)),
    (EmptyCommit, ({}, {"a": 1})),
    *((InputRejected, ({"a": b"x"}, {"a": bad})) for bad in (-1, True, 1.5, None)),
    (InputRejected, ({"a": "text"},)),
    (InvalidName, ({"a": b"x"}, {"a b": 0})),
    *((InvalidName, ({"a": b"x", name: data},)) for name in ["", *BAD_NOTES] for data in (b"x", None)),
    (LimitExceeded, ({"a": b"x", "b": bytes(MAX_NOTE_BYTES + 1)},)),
    (LimitExceeded, (dict.fromkeys("ab", bytes(MAX_NOTE_BYTES // 2 + 1)),)),
]

Case = tuple[type[SomactlError], str, tuple[Any, ...], dict[str, Any]]


def case(error: type[SomactlError], method: str, *arguments: Any, **options: Any) -> Case:
    return error, method, arguments, options


def commit(error: type[SomactlError], updates: dict[str, Any], expected: Any = None, **metadata: Any) -> Case:
    made = CommitMetadata(**metadata)
    return case(error, "commit_matrix_update", updates, made, expected, commit_id="refused")


def bad_reads() -> Iterator[Case]:
    for key in BAD_KEYS:
        yield case(InvalidName, "read", key)
        yield case(InvalidName, "read_many", ["a", key])
        yield case(InvalidName, "stat_many", ["a", key])
        yield case(InvalidName, "history", key)
        if key:  # every key comes after nothing
            yield case(InvalidName, "scan", after=key)
    yield case(InputRejected, "read", "a", -1)
    yield case(InputRejected, "log", limit=-1)
    yield case(InputRejected, "events", -1)
    yield case(InputRejected, "events", 0, 0)
    for commit_id in BAD_IDS:
        yield case(InvalidName, "commit_status", commit_id)
    for name in BAD_NOTES:
        yield case(InvalidName, "read_notes", ["good", name])
        yield case(InvalidName, "scan_notes", name)
        yield case(InvalidName, "scan_notes", after=name)
    yield case(InvalidName, "read_notes", [""])


def bad_writes() -> Iterator[Case]:
    for error, updates in BAD_UPDATES:
        yield commit(error, updates)
    for verdicts in UNPROVEN:
        yield commit(VerdictMissing, {"a": RHO}, verdicts=verdicts)
    for metadata in BAD_METADATA:
        yield commit(InputRejected, {"a": RHO}, **{"verdicts": proof(RHO), **metadata})
    for expected in BAD_EXPECTATIONS:
        yield commit(InputRejected, {"a": GOOD}, expected)
    for commit_id in BAD_IDS:
        yield case(InvalidName, "commit_matrix_update", {"a": GOOD}, CommitMetadata(), commit_id=commit_id)
        yield case(InvalidName, "commit_status", commit_id, resolve=True)
    for retention in BAD_RETENTIONS:
        yield case(InputRejected, "init", retention=retention)
    yield case(InputRejected, "compact", limit=0)
    yield case(InputRejected, "compact", limit=0, dry_run=True)
    yield case(InputRejected, "mark_published", -1)
    for keep in (-1, 1 << 70):
        yield case(InputRejected, "set_publishing", keep)
    for error, arguments in BAD_NOTE_WRITES:
        yield case(error, "write_notes", *arguments)


async def refusal(store: Store, method: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> object:
    """The error that a call raises, or what it returns."""
    try:
        answer = getattr(store, method)(*arguments, **options)
        return [page async for page in answer] if hasattr(answer, "__aiter__") else await answer
    except SomactlError as exc:
        return exc


async def not_refused(store: Store, cases: Iterator[Case]) -> list[str]:
    """The cases that did not end as they should: with that error, and the exit code of bad input."""
    wrong = []
    for error, method, arguments, options in cases:
        outcome = await refusal(store, method, arguments, options)
        if not isinstance(outcome, error) or outcome.exit_code != 11:
            wrong.append(f"{method}{str(arguments)[:80]} {str(options)[:80]}: {outcome!r}")
    return wrong


class ArgumentReadChapter(ContractTests):
    async def test_bad_arguments_of_reads_are_refused(self, store: Store, writer: Store) -> None:
        await put(writer, "a")
        assert await not_refused(store, bad_reads()) == []


class ArgumentChapter(ContractTests):
    async def test_bad_arguments_of_writes_are_refused_and_nothing_is_written(
        self, backend: Backend, writer: Store
    ) -> None:
        before = await writer.head()
        assert await not_refused(writer, bad_writes()) == []
        assert await writer.head() == before
        assert (await writer.commit_status("refused")).state == "unseen"
        assert await backend.stored("default") == set()
        assert (await writer.publishing()).keep is None
        assert [page async for page in writer.scan_notes()] == []
        assert (await put(writer, "a")).version == 1

    async def test_the_refusal_names_the_key(self, writer: Store) -> None:
        with pytest.raises(Truncated, match="'a'"):
            await writer.commit_matrix_update({"a": GOOD[:-1]}, CommitMetadata(), commit_id="refused")

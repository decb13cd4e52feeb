"""Commit matrices: decode, verify, encode, then one atomic write whose outcome is never guessed."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace as evolve
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec.structs import replace

from somactl.core.names import validate_commit_id, validate_key
from somactl.errors import (
    EmptyCommit,
    InputRejected,
    InputsRejected,
    Interrupted,
    KindRefused,
    NamespaceNotFound,
    OutcomeUnknown,
    SomactlError,
    StoreUnavailable,
    VersionConflict,
)
from somactl.operations.admission import Admitted, Policy, admit, admit_bytes
from somactl.operations.jobs.progress import Progress, Watch, unwatched
from somactl.report import CommitItem, CommitReport, StoreView, dark_warning
from somactl.store.contract import CommitMetadata, Expected, Receipt, Store, is_dark
from somactl.store.request import KeyState, new_commit_id, normalise, refuse_conflicts
from somactl.suggestion import again, run

if TYPE_CHECKING:
    import numpy as np

R = TypeVar("R", bound=CommitReport)
RESOLVE_SECONDS = 5.0
GUARDED_ATTEMPTS = 5
DURABILITY_RANK = {"memory": 0, "replicated": 1, "fsync": 2}


@dataclass(frozen=True, slots=True)
class Input:
    """One put as an operator hands it in: the raw content of a file, and what to call it in errors."""

    key: str
    content: bytes
    source: str


@dataclass(frozen=True, slots=True)
class Request:
    """Everything about one commit but its matrices.

    change_kind: whether a value that is no rho may replace one that is.
    dark: whether the commit says that it is made in dark mode, as one does to a store opened in it.
    announce is called with the commit id before the write is sent, so that an operator can ask what
    became of it even if this process dies in between; watch is told how many matrices are proven.
    """

    commit_id: str | None = None
    user: Mapping[str, str] = field(default_factory=dict)
    expected: Expected = None
    dry_run: bool = False
    change_kind: bool = False
    dark: bool = False
    require_durability: str | None = None
    announce: Callable[[str], None] = lambda commit_id: None
    watch: Watch = unwatched


async def commit_matrix_update(
    store: Store,
    updates: Mapping[str, np.ndarray | None],
    metadata: Mapping[str, str] | None = None,
    expected_version: Expected = None,
    *,
    commit_id: str | None = None,
    policy: Policy | None = None,
) -> Receipt:
    """Commit `updates` (key -> n x n array, or None to delete) whole or not at all, every rho proven first.

    In dark mode, which `policy` or the store that was opened in it says, what an invariant would refuse is
    committed as it is; the receipt names its keys as `admitted_dark`.

    Raises InvariantViolated (with the verdict), VersionConflict, OutcomeUnknown, StoreUnavailable; nothing
    is written unless a receipt is returned or OutcomeUnknown raised.
    """
    policy = policy_of(store, policy or Policy())
    admitted: dict[str, Admitted | None] = {}
    for key, array in updates.items():
        validate_key(key)
        if array is None:
            admitted[key] = None
            continue
        layout, kind = policy.layout, policy.kind or "rho"
        admitted[key] = await asyncio.to_thread(
            admit, array, key, store.namespace, policy, time.time(), kind=kind, layout=layout
        )
    request = Request(
        commit_id=commit_id,
        user=metadata or {},
        expected=expected_version,
        change_kind=policy.change_kind,
        dark=policy.dark,
    )
    return await send(store, admitted, request, commit_id or new_commit_id(), command="python")


def policy_of(store: Store, policy: Policy) -> Policy:
    """The policy, in dark mode where the store was opened in it."""
    return evolve(policy, dark=True) if is_dark(store) else policy


async def commit(
    store: Store,
    inputs: Sequence[Input],
    deletes: Sequence[str],
    request: Request,
    policy: Policy,
    unreadable: Sequence[tuple[str, SomactlError]] = (),
) -> CommitReport:
    """The `commit` command. All inputs are admitted before anything is written; all refusals are told.

    unreadable: source and error of each input that could not even be parsed. Raises InputsRejected, or the
    one error where there is one.
    """
    timestamp = time.time()
    policy = policy_of(store, policy)
    request = evolve(request, dark=policy.dark)
    admitted: dict[str, Admitted | None] = {}
    refused = [*unreadable]
    total = len(unreadable) + len(inputs) + len(deletes)
    for count, item in enumerate(inputs, start=1):
        try:
            validate_key(item.key)
            admitted[item.key] = await asyncio.to_thread(
                admit_bytes, item.content, item.source, item.key, store.namespace, policy, timestamp
            )
        except InputRejected as exc:
            refused.append((item.source, exc.about(item.source)))
        request.watch(Progress(count, "matrices", len(inputs)))
    for key in deletes:
        try:
            admitted[validate_key(key)] = None
        except InputRejected as exc:
            refused.append((key, exc))
    if len(refused) == 1:
        raise refused[0][1] from None
    if refused:
        raise InputsRejected(sorted(refused, key=_in_order), total=total)
    return await write(store, admitted, request, CommitReport)


def _in_order(refused: tuple[str, SomactlError]) -> list[tuple[int, str]]:
    """Line 9 before line 10."""
    parts = re.split(r"(\d+)", refused[0])
    return [(int(part), "") if part.isascii() and part.isdigit() else (0, part) for part in parts]


async def write(
    store: Store, admitted: Mapping[str, Admitted | None], request: Request, report_type: type[R]
) -> R:
    """Send one commit (or, in a dry run, only say what it would be) and report it."""
    if not admitted:
        raise EmptyCommit("the commit names no key", hint="give KEY=FILE, or NDJSON lines on stdin")
    commit_id = validate_commit_id(request.commit_id or new_commit_id())
    await _require_durability(store, request.require_durability)
    items = [_item(key, value) for key, value in sorted(admitted.items())]
    report = report_type(store=store.name, namespace=store.namespace, commit_id=commit_id, items=items)
    report.admitted_dark = _in_the_dark(items)
    if report.admitted_dark:
        report.warnings.append(dark_warning(len(report.admitted_dark)))
    if request.dry_run:
        await _refuse_known_conflicts(store, admitted, request)
        if not request.change_kind:
            await _guards_of(store, admitted)
        report.dry_run = True
        return report
    command = str(report_type.__struct_config__.tag)
    receipt = await send(store, admitted, request, commit_id, command=command)
    for item in items:
        item.noop = item.key in receipt.noops
    report.incarnation, report.version = receipt.incarnation, receipt.version
    report.committed_at, report.replayed = receipt.committed_at, receipt.replayed
    report.stores = [StoreView(store=s.store, durability=s.durability) for s in receipt.stores]
    return report


async def send(
    store: Store, admitted: Mapping[str, Admitted | None], request: Request, commit_id: str, *, command: str
) -> Receipt:
    """The write itself. Interrupted in the middle, it finds out at once what became of the commit."""
    metadata = CommitMetadata(
        user=request.user,
        verdicts=verdicts_of(admitted),
        command=command,
        dark=request.dark or is_dark(store),
    )
    dark = tuple(sorted(key for key, value in admitted.items() if value is not None and value.dark))
    data = {key: None if value is None else value.data for key, value in admitted.items()}
    guards = await _guards(store, admitted, request, commit_id)
    request.announce(commit_id)
    attempts = GUARDED_ATTEMPTS
    while True:
        attempts -= 1
        guarded = replace(metadata, guards=guards)
        try:
            receipt = await store.commit_matrix_update(data, guarded, request.expected, commit_id=commit_id)
            return replace(receipt, admitted_dark=dark)
        except asyncio.CancelledError:
            raise await _resolve(store, commit_id) from None
        except VersionConflict as exc:
            asked = normalise(request.expected, admitted)
            if not attempts or any(key in asked for key in exc.conflicts):
                raise
            guards = await _guards(store, admitted, request, commit_id)  # another commit came in between


async def _guards(
    store: Store, admitted: Mapping[str, Admitted | None], request: Request, commit_id: str
) -> dict[str, int]:
    """What must not have changed when the commit arrives; nothing for a replay, which changes nothing."""
    if request.change_kind:
        return {}
    try:
        return await _guards_of(store, admitted)
    except KindRefused:
        if (await store.commit_status(commit_id)).state == "committed":
            return {}
        raise


def verdicts_of(admitted: Mapping[str, Admitted | None]) -> dict[str, dict[str, Any]]:
    """content digest -> verdict as JSON values, as the store keeps it."""
    return {
        value.header.content: verdict_values(value)
        for value in admitted.values()
        if value is not None and value.verdict is not None
    }


def verdict_values(admitted: Admitted) -> dict[str, Any]:
    assert admitted.verdict is not None
    # dataclasses.asdict copies each number deeply: four times as slow, where thousands are committed at once
    values = msgspec.to_builtins(admitted.verdict.without_vector())
    kept = {name: value for name, value in values.items() if value is not None and value != ()}
    return {**_json_values(kept), "dark": True} if admitted.dark else kept


def _json_values(values: dict[str, Any]) -> dict[str, Any]:
    """Without numbers that are infinite, as the trace error of what is admitted in the dark may be."""
    return {
        name: _json_values(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if not isinstance(value, float) or math.isfinite(value)
    }


def _item(key: str, admitted: Admitted | None) -> CommitItem:
    if admitted is None:
        return CommitItem(key=key, action="delete")
    header = admitted.header
    return CommitItem(
        key=key,
        action="put",
        kind=header.kind,
        dtype=header.dtype,
        shape=list(header.shape),
        layout=header.layout,
        bytes=header.total_length,
        content=header.content,
        moves=admitted.moves,
        verdict=None if admitted.verdict is None else admitted.verdict.without_vector(),
        dark=admitted.dark,
    )


def _in_the_dark(items: Sequence[CommitItem]) -> dict[str, list[str]]:
    """Key -> the reasons for which it would be refused."""
    return {item.key: list(item.verdict.reasons) for item in items if item.dark and item.verdict is not None}


async def _resolve(store: Store, commit_id: str) -> SomactlError:
    """The error that says what became of a commit whose caller was interrupted (DESIGN 4.4: 130 if known)."""
    try:
        status = await asyncio.wait_for(store.commit_status(commit_id, resolve=True), RESOLVE_SECONDS)
    except (SomactlError, asyncio.CancelledError, TimeoutError):
        return OutcomeUnknown(f"interrupted while commit {commit_id} was on its way", commit_id=commit_id)
    if status.state == "committed" and status.record and status.record.receipt:
        version = status.record.receipt.version
        return Interrupted(
            f"interrupted, but commit {commit_id} stands as version {version}",
            next=run("restore", commit=commit_id),
            commit_id=commit_id,
            state="committed",
            version=version,
        )
    return Interrupted(
        f"interrupted; commit {commit_id} was not written and never will be",
        next=again(commit_id=None),
        commit_id=commit_id,
        state="aborted",
    )


async def _refuse_known_conflicts(
    store: Store, admitted: Mapping[str, Admitted | None], request: Request
) -> None:
    """What a dry run can say of expectations: whether they hold now. Raises VersionConflict."""
    expectations = normalise(request.expected, admitted)
    if not expectations:
        return
    try:
        now = await store.stat_many(list(expectations))
    except NamespaceNotFound:
        refuse_conflicts(expectations, None, {})
        return
    found = {key: KeyState(stat.version, stat.content) for key, stat in now.stats.items()}
    refuse_conflicts(expectations, now.incarnation, found, now.version)


async def _require_durability(store: Store, required: str | None) -> None:
    """Refuse before the write where the store promises less than `required`."""
    if required is None:
        return
    promised = await store.durability()
    if _durability(promised) < _durability(required):
        raise StoreUnavailable(
            f"{store.name} promises {promised}, and --require-durability asks for {required}",
            hint="docs/STORES.md says what each store and setting promises",
        )


def _durability(value: str) -> tuple[int, int]:
    name, _, count = value.partition(":")
    return DURABILITY_RANK.get(name, -1), int(count or 0)


async def _guards_of(store: Store, admitted: Mapping[str, Admitted | None]) -> dict[str, int]:
    """Key -> the version at which it is no rho (0: absent), for each put that is none.

    Which kind is live is looked at before the commit is sent, and the versions that were seen go with it as
    guards: what is written in between is noticed by the store, in the transaction that writes.

    Raises KindRefused where one would replace a rho, StoreUnavailable.
    """
    kinds = {key: put.header.kind for key, put in admitted.items() if put and put.header.kind != "rho"}
    if not kinds:
        return {}
    try:
        live = (await store.stat_many(list(kinds))).stats
    except NamespaceNotFound:
        return dict.fromkeys(kinds, 0)
    for key, kind in kinds.items():
        if key in live and live[key].kind == "rho":
            raise KindRefused(
                f"key {key!r} holds a rho (version {live[key].version}), and would become a {kind}, of which "
                "nothing is proven",
                hint="commit it under another key; `change_kind` does it all the same",
                next=[run("show", key, from_="authority"), again(change_kind=True)],
                key=key,
                kind=kind,
                version=live[key].version,
            )
    return {key: live[key].version if key in live else 0 for key in kinds}

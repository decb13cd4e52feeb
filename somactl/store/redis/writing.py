"""What the store writes: commits, and the namespace itself.

A commit is staged and then swung in by one script. Every value is first put under a name of its own that
vanishes by itself; the script checks everything, and renames. It sees no large value, and frees none, so it
takes about the same time for all sizes. The values of a small commit travel with the script itself.

A commit that deletes what is there has a script of its own, which is made for many thousand keys. It leaves
to the other one whatever is not as plain as that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from somactl.core.names import commit_id_time
from somactl.core.portions import batched, in_portions
from somactl.errors import OutcomeUnknown, SomactlError, StoreDamaged, StoreUnavailable
from somactl.store.contract import Durable, Expect, Head, Receipt, Retention
from somactl.store.redis import layout, listing
from somactl.store.redis.layout import NAME, Names
from somactl.store.redis.link import ServerSettings
from somactl.store.redis.pool import Argument, Call, Command, Converse, Reply, Script
from somactl.store.redis.reading import Reader
from somactl.store.request import (
    KeyState,
    Put,
    Request,
    fresh_incarnation,
    refuse_conflicts,
    refuse_expired,
    resolve_replay,
)

COMMIT = Script("commit")
DELETE = Script("delete")
LAPSE = Script("lapse")
INIT = Script("init")
STAGE = Script("stage")

STAGED_MS = 10 * 60 * 1000
"""How long a staged value waits for its commit."""
_INLINE_BYTES = 72 << 10
"""Up to this size in sum values are arguments of the script; Lua copies them, at some 0.1 ms a megabyte."""
_SMALL = 16 << 10
"""Smaller values are staged many at a time, by a script, larger ones each by a command."""
_BATCH_BYTES = 8 << 20
_BATCH_KEYS = 1000
_LAPSING_KEYS = 1000
"""Keys in one script: some 2 ms in which the server does nothing else."""
_LAPSE_SECONDS = 60.0
"""No bytes expire sooner, so that `compact` can free those without a grace, many megabytes at a time."""
_LISTED_KEYS = 250
"""Deleted keys in one element of their list: what `compact` looks at, and removes, at a time."""
WAIT_MS = 1000
"""How long a commit waits for its replicas: by then it is made, whatever they say."""
RECORD = Script("durable")


class Staging:
    """The names under which one attempt at a commit puts its values, and the commands that do it."""

    def __init__(self, names: Names, request: Request) -> None:
        self.token = layout.token()
        self.puts = {key: put for key, put in request.updates.items() if put is not None}
        self.deletes = [key for key, put in request.updates.items() if put is None]
        self.names = [names.stage(self.token, number) for number in range(len(self.puts))]
        self.inline = sum(len(put.data) for put in self.puts.values()) <= _INLINE_BYTES

    def batches(self) -> Iterator[list[Command | Call]]:
        """Commands that stage everything that is not inline, in portions of bounded size."""
        if self.inline:
            return
        staged = zip(self.names, self.puts.values(), strict=True)
        for portion in in_portions(staged, lambda each: len(each[1].data), _BATCH_BYTES, _BATCH_KEYS):
            small = [(name, put) for name, put in portion if len(put.data) < _SMALL]
            large = [(name, put) for name, put in portion if len(put.data) >= _SMALL]
            yield [*(("SET", name, put.data, "PX", STAGED_MS) for name, put in large), *_small(small)]


def _small(values: Sequence[tuple[str, Put]]) -> list[Command | Call]:
    if not values:
        return []
    return [Call(STAGE, [name for name, _ in values], [STAGED_MS, *(put.data for _, put in values)])]


async def commit(
    reader: Reader, request: Request, settings: ServerSettings, wait_replicas: int = 0
) -> Receipt:
    """See `Store.commit_matrix_update`; the request has passed `prepare`.

    With `wait_replicas`, the receipt says `replicated:K` if so many replicas have confirmed it in time.
    """
    staging = Staging(reader.names, request)
    record = reader.names.commit(request.commit_id)
    confirmation = Confirmation(record, request.commit_id, wait_replicas)
    try:
        for batch in staging.batches():
            reader.link.values(await reader.link.ask(*batch))
        outcome = [b"other"]
        # `delete.lua` takes a fraction of the time a key, and writes nothing where it answers `other`.
        if _is_plain_delete(request):
            call = _delete(reader.names, request, settings.durability)
            outcome = await _ask(reader, request, call, confirmation)
        if outcome[0] == b"other":
            call = _call(reader.names, request, staging, settings.durability)
            outcome = await _ask(reader, request, call, confirmation)
        if outcome[0] == b"done":
            receipt = _receipt(request, outcome[1:], confirmation.durability or settings.durability)
            # Behind the commit, not in its script: how long that holds up the server must not grow with keys.
            if request.metadata.grace is not None:
                await _let_lapse(reader, receipt, request.metadata.grace)
            return receipt
    except SomactlError as exc:
        if "reply" in exc.facts:  # a server that has not answered would keep us waiting once more
            await _discard(reader, staging)
        raise
    await _discard(reader, staging)
    return await _refused(reader, request, outcome)


async def _discard(reader: Reader, staging: Staging) -> None:
    """Do not leave staged values to their expiry, if the server is there to be told."""
    if staging.inline:
        return
    with contextlib.suppress(SomactlError):
        for names in batched(staging.names, _BATCH_KEYS):
            await reader.link.ask(("UNLINK", *names))


async def _ask(reader: Reader, request: Request, call: Call, confirmation: Confirmation) -> list[Any]:
    """What a script makes of the commit; from here on no answer means that its outcome is unknown."""
    (reply,) = await reader.link.ask(call, commit_id=request.commit_id, behind=confirmation)
    outcome: list[Any] = reader.link.written(reply, request.commit_id)
    return outcome


def _is_plain_delete(request: Request) -> bool:
    """Whether `lua/delete.lua` may be asked: nothing but deletes, at versions at which keys can be live."""
    updates = request.updates
    return not any(updates.values()) and all(
        key in updates and expect.version and expect.incarnation is None and expect.content is None
        for key, expect in request.expectations.items()
    )


def _delete(names: Names, request: Request, durability: str) -> Call:
    """The script of plain deletes with its keys and arguments; `lua/delete.lua` says what they are."""
    # In byte order, as the indexes have them: what is a neighbour there is a neighbour in memory.
    deletes, token, grace = sorted(request.updates), layout.token(), request.metadata.grace
    keys: list[Argument] = [
        names.head, names.keys, names.deleted, names.log, names.records,
        names.commit(request.commit_id), names.delete_batches, names.expiring_batches,
        names.delete_batch(token),
    ]  # fmt: skip
    keys += map(names.history, deletes)
    lists = _lists(deletes)
    expected = request.expectations
    versions: list[Argument] = [(expected[key].version or "") if key in expected else "" for key in deletes]
    time = commit_id_time(request.commit_id)
    fixed: list[Argument] = [
        layout.LAYOUT,
        request.commit_id,
        "" if time is None else repr(time),
        request.identity,
        layout.detail(request),
        durability,
        token,
        "" if grace is None else repr(float(grace)),
        len(lists),
    ]
    return Call(DELETE, keys, [*fixed, *lists, *versions])


async def _let_lapse(reader: Reader, receipt: Receipt, grace: float) -> None:
    """Have the server free what the commit's tombstones hide when their grace is over, some keys at a time.

    Should it fail, or never happen, `compact` frees them: what can be read depends on the tombstones alone.
    """
    absent = set(receipt.noops)
    keys = [key for key, content in receipt.keys.items() if content is None and key not in absent]
    expires = (receipt.committed_at + max(grace, _LAPSE_SECONDS)) * 1000
    names, arguments = reader.names, (receipt.version, f"{expires:.0f}")
    with contextlib.suppress(SomactlError):
        for part in batched(keys, _LAPSING_KEYS):
            places: list[Argument] = [names.head, *map(names.live, part)]
            if await reader.link.call(LAPSE, places, [*arguments, ""]) is None:
                places += map(names.history, part)
                await reader.link.call(LAPSE, places, [*arguments, "told"])


def _lists(keys: Sequence[str]) -> list[str]:
    """Keys as `delete_batch` lists them; none of them holds a newline."""
    return ["\n".join(some) for some in batched(keys, _LISTED_KEYS)]


def _call(names: Names, request: Request, staging: Staging, durability: str) -> Call:
    """The commit script with its keys and arguments; `lua/commit.lua` says what they are."""
    keys: list[Argument] = [getattr(names, part) for part in layout.PARTS]
    keys += (
        names.commit(request.commit_id),
        names.delete_batches,
        names.expiring_batches,
        names.delete_batch(staging.token),
    )
    lists = _lists(staging.deletes)
    values: list[Argument] = []
    for stage, (key, put) in zip(staging.names, staging.puts.items(), strict=True):
        keys += names.live(key), names.history(key), names.old(staging.token, key), stage
        about = layout.about(put.header, request.commit_id)
        values += key, put.header.total_length, about, put.verdict or "", put.data if staging.inline else ""
    for key in staging.deletes:
        keys += names.live(key), names.history(key), names.old(staging.token, key)
    values += staging.deletes
    subjects = {key: number for number, key in enumerate([*staging.puts, *staging.deletes], 1)}
    # A key that is expected somewhere and not written is compared by its history alone.
    for key, expect in request.expectations.items():
        if key not in subjects:
            subjects[key] = len(subjects) + 1
            keys.append(names.history(key))
        values += subjects[key], *_demands(expect)
    time = commit_id_time(request.commit_id)
    grace = request.metadata.grace
    fixed: list[Argument] = [
        layout.LAYOUT,
        request.commit_id,
        "" if time is None else repr(time),
        request.identity,
        layout.detail(request),
        durability,
        staging.token,
        len(staging.puts),
        len(staging.deletes),
        len(request.expectations),
        "" if grace is None else repr(float(grace)),
        len(lists),
    ]
    return Call(COMMIT, keys, [*fixed, *lists, *values])


def _demands(expect: Expect) -> Iterator[bytes]:
    for part in (expect.version, expect.incarnation, expect.content):
        yield b"" if part is None else f"={part}".encode("utf-8", "surrogatepass")


def _receipt(request: Request, reply: Sequence[bytes], durability: str) -> Receipt:
    version, now, incarnation, noops = (bytes(part).decode() for part in reply)
    return Receipt(
        commit_id=request.commit_id,
        namespace=request.namespace,
        incarnation=incarnation,
        version=int(version),
        keys=request.contents,
        stores=(Durable(NAME, durability),),
        committed_at=float(now),
        noops=layout.absent(request.contents, noops),
    )


async def _refused(reader: Reader, request: Request, outcome: Sequence[Any]) -> Receipt:
    """The receipt of a commit that was here before, or the error that says why this one is not."""
    what, *facts = outcome
    namespace = request.namespace
    if what == b"missing":
        raise await reader.absence()
    if what == b"newer":
        raise layout.newer_to_write(namespace, facts[0])
    if what == b"damaged":
        raise layout.damaged(namespace, bytes(facts[0]).decode())
    if what == b"known":
        return await _replay(reader, request, facts[0])
    if what == b"unstaged":
        raise StoreUnavailable(
            f"the value of {bytes(facts[0]).decode()!r} was gone before commit {request.commit_id} took it",
            hint="run it again; a server that is so slow, or so full, deserves a look",
        )
    # The script has said what it found, at one moment; the error is made of it as in every other store.
    now, fields, subjects = facts
    here = await reader.existing(fields)
    refuse_expired(request.commit_id, float(now), here.head.retention, here.records_removed_until)
    found = dict(zip(request.expectations, map(_found, subjects), strict=True))
    refuse_conflicts(request.expectations, here.head.incarnation, found, here.head.version)
    raise StoreDamaged(f"commit {request.commit_id} was refused, and nothing that was found says why")


async def _replay(reader: Reader, request: Request, fields: Sequence[Any]) -> Receipt:
    record = layout.record(request.namespace, request.commit_id, fields)
    assert record is not None  # the script has seen one
    resolve_replay(request, None if fields[0] is None else bytes(fields[0]).decode())
    assert record.receipt is not None  # `resolve_replay` has refused the aborted ones
    assert record.metadata is not None
    if record.metadata.grace is not None:  # its first sender may not have come that far
        await _let_lapse(reader, record.receipt, record.metadata.grace)
    return replace(record.receipt, replayed=True)


def _found(subject: Sequence[bytes | None]) -> KeyState:
    version, content, since = subject
    return KeyState(
        int(version or 0),
        None if content is None else bytes(content).decode(),
        None if since is None else int(since),
    )


async def init(reader: Reader, retention: Retention | None, new_incarnation: bool) -> Head:
    names = reader.names
    known = await reader.is_registered()
    (head,) = reader.link.values(await reader.link.ask(("EXISTS", names.head)))
    remains = listing.Remains()
    if new_incarnation and not head:
        remains = await listing.remains(reader)
    kept = retention or layout.RETENTION
    arguments: list[Argument] = [
        layout.LAYOUT,
        layout.LEAST_READER,
        layout.LEAST_WRITER,
        fresh_incarnation(),
        int(new_incarnation),
        kept.versions,
        repr(float(kept.seconds)),
        repr(float(kept.record_seconds)),
        int(retention is not None),
        int(known),
        remains.version,
        remains.stored_bytes,
    ]
    parts = [getattr(names, part) for part in (*layout.PARTS, *layout.FURTHER_PARTS)]
    what, *facts = await reader.link.call(INIT, parts, arguments)
    if what == b"absent":
        raise await reader.absence()
    if what == b"damaged":
        raise layout.damaged(names.namespace, "its head is gone, and other parts are there")
    if what == b"newer":
        raise layout.newer_to_write(names.namespace, facts[0])
    here = await reader.existing(facts[0])
    if not known:
        # Behind the script: a name without a namespace would be taken for one that was lost.
        reader.registry.values(await reader.registry.ask(("SADD", layout.REGISTRY, names.namespace)))
    return here.head


class Confirmation:
    """What is said behind one commit script: wait for `replicas`, and write into the commit's `record` that
    they have it.

    `durability` is `replicated:K` then, and None while too few have confirmed the commit, which stands all
    the same. Anything but a plain answer may mean that this server is the primary no longer, and the commit
    lost: OutcomeUnknown.

    It all goes over the connection of the script. A server may be replaced at any moment; over another
    connection the new primary would be asked, which need not have the commit: WAIT would then count the
    replicas of something else, and a record written there would tell of a commit that no server has.
    """

    def __init__(self, record: str, commit_id: str, replicas: int) -> None:
        self.durability: str | None = None
        self._record = record
        self._commit_id = commit_id
        self._replicas = replicas

    async def __call__(self, converse: Converse, replies: Sequence[Reply]) -> None:
        outcome = replies[-1]
        if not self._replicas or not isinstance(outcome, list) or outcome[0] != b"done":
            return
        wait = ("WAIT", self._replicas, WAIT_MS)
        if await self._number(converse, wait, WAIT_MS / 1000) < self._replicas:
            return
        durability = f"replicated:{self._replicas}"
        _, version, _, incarnation, *_ = outcome
        call = Call(RECORD, [self._record], [version, incarnation, durability])
        # By its source: the script is shorter than a second round trip where the server does not know it.
        if await self._number(converse, call.by_source) != 1:
            raise self._unknown("it does not hold the commit any more")
        self.durability = durability

    async def _number(self, converse: Converse, command: Command, longer: float = 0.0) -> int:
        """What it replies; whatever else comes, the commit was made before it."""
        try:
            (reply,) = await converse([command], longer)
        except Exception as exc:
            raise self._unknown(str(exc) or "it did not answer in time") from exc
        if isinstance(reply, int):
            return reply
        raise self._unknown(f"it answered {str(reply)[:200]!r}")

    def _unknown(self, why: str) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"commit {self._commit_id} was made, and then its server seems to have been replaced ({why}): "
            "the new primary may not have it",
            commit_id=self._commit_id,
        )

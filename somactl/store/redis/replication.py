"""Waiting until replicas have a commit too, over the very connection that made it.

A server may be replaced at any moment, by an operator's failover or by a cluster's. What is asked over any
other connection may be asked of the new primary, which need not have the commit: WAIT would then count the
replicas of something else, and a record written there would tell of a commit that no server has.
"""

from __future__ import annotations

from collections.abc import Sequence

from somactl.errors import OutcomeUnknown
from somactl.store.redis.pool import Converse, Reply
from somactl.store.redis.scripts import Call, Command, Script

WAIT_MS = 1000
"""How long a commit waits for its replicas: by then it is made, whatever they say."""
RECORD = Script("durable")


class Confirmation:
    """What is said behind one commit script: wait for `replicas`, and write into the commit's `record` that
    they have it.

    `durability` is `replicated:K` then, and None while too few have confirmed the commit, which stands all
    the same. Anything but a plain answer may mean that this server is the primary no longer, and the commit
    lost: OutcomeUnknown.
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

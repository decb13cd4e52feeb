"""What people ask of a namespace besides: its contents, its audits, its events. Nothing is proven here."""

from __future__ import annotations

import time
from collections.abc import Coroutine
from dataclasses import asdict
from typing import Any, TypeVar

from somactl.errors import SomactlError
from somactl.operations.audit.memory import Memory
from somactl.operations.snapshot import backlog, coverage
from somactl.report import CountsView
from somactl.serve.model import Extras, WatchOptions
from somactl.serve.pulse import Pulse
from somactl.store.contract import NamespaceSummary, Store

PATIENCE = 5.0
"""Seconds for each of them."""

T = TypeVar("T")


async def look_around(store: Store, options: WatchOptions, pulse: Pulse) -> Extras:
    """What the authority says; None for what it does not say in time."""

    async def tried(call: Coroutine[Any, Any, T]) -> T | None:
        try:
            return await pulse.while_up(store.name, call, PATIENCE)
        except SomactlError:
            return None

    summary = await tried(store.summary())
    incarnation = summary.head.incarnation if summary is not None else ""
    memory = await tried(Memory.open(store, incarnation, asdict(options.tolerances), "certify"))
    return Extras(
        namespace=store.namespace,
        at=time.time(),
        version=summary.head.version if summary is not None else None,
        counts=None if summary is None else _counts(summary),
        ledger=None if summary is None or memory is None else coverage(memory, summary.keys),
        last_audit_at=max((run.ended_at for run in memory.ledger.runs), default=None) if memory else None,
        events=await tried(backlog(store)),
    )


def _counts(summary: NamespaceSummary) -> CountsView:
    return CountsView(
        version=summary.head.version,
        keys=summary.keys,
        tombstones=summary.tombstones,
        stored_bytes=summary.stored_bytes,
    )

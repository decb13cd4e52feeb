"""What generic commands ask of every kind of job, so that they need to know none by name.

`runtime.jobs()` lists the kinds there are. `status`, `restore --commit` and `compact` go through them: a new
kind of job answers these three questions, and no generic command changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from somactl.report import OrderView, RestoreReport
from somactl.store.contract import CommitStatus, Store

if TYPE_CHECKING:
    from somactl.core.verdict import Tolerances
    from somactl.operations.commit import Request


@dataclass(frozen=True, slots=True)
class Undo:
    """How something is taken back.

    undone      the id of the job, or of a commit of it, and its status as a commit id
    tolerances  under which every restored value is proven again
    partial     what cannot be taken back is left as it is, and reported
    """

    undone: str
    status: CommitStatus
    request: Request
    tolerances: Tolerances
    partial: bool = False


class Job(Protocol):
    """One kind of job that leaves notes in a store."""

    async def status(self, store: Store, job_id: str, *, resolve: bool) -> OrderView | None:
        """Where the job of that id is; None where it is no id of this kind.

        resolve: the commit of that id is about to be resolved. Raises UsageError where the job has none.
        """
        ...

    async def undo(self, store: Store, undo: Undo) -> RestoreReport | None:
        """Take back all that the job, or that commit of it, wrote; None where the id is not this kind's."""
        ...

    async def forget(self, store: Store, horizon: float, *, dry_run: bool) -> int:
        """Delete the notes of jobs not touched since `horizon`, whose commits have no record any more; how
        many jobs."""
        ...

"""What generic commands ask of every kind of job, so that they need to know none by name.

`runtime.jobs()` lists the kinds there are. `status`, `restore --commit` and `compact` go through them: a new
kind of job answers these three questions, and no generic command changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from somactl.report import OrderView, RestoreReport
from somactl.store.contract import CommitStatus, Store

if TYPE_CHECKING:
    from somactl.core.verdict import Tolerances
    from somactl.operations.commit import Request


class JobStatus(msgspec.Struct, frozen=True):
    """Where a job is.

    view           for the report
    is_done        it came to its end, or is not to be continued
    has_own_commit whether the job's id is that of its one commit
    """

    view: OrderView
    is_done: bool
    has_own_commit: bool


class Job(Protocol):
    """One kind of job that leaves notes in a store."""

    async def status(self, store: Store, job_id: str) -> JobStatus | None:
        """Where the job of that id is; None where it is no id of this kind."""
        ...

    async def undo(
        self,
        store: Store,
        job_id: str,
        status: CommitStatus,
        request: Request,
        tolerances: Tolerances,
        *,
        partial: bool,
    ) -> RestoreReport | None:
        """Take back all that the job (or the commit `job_id` of it, whose status is given) wrote.

        None where the id is not this kind's. `partial`: what cannot be taken back is left, and reported.
        """
        ...

    async def forget(self, store: Store, *, dry_run: bool) -> int:
        """Delete the notes of jobs whose commits cannot be asked about any more; how many jobs."""
        ...

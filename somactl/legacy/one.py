"""One value, from Python: the library function behind the command."""

from __future__ import annotations

import asyncio
import contextlib

from somactl.errors import NamespaceNotFound
from somactl.legacy.copying import COMMAND
from somactl.legacy.examine import Selection, examine
from somactl.legacy.source.contract import Source
from somactl.legacy.target import compare
from somactl.operations.admission import Policy
from somactl.operations.commit import verdicts_of
from somactl.report import MigrationRow
from somactl.store.contract import CommitMetadata, Store
from somactl.store.request import new_commit_id


async def migrate_json_payload_to_matrix(
    key: str,
    source: Source,
    store: Store,
    *,
    selection: Selection | None = None,
    policy: Policy | None = None,
    dry_run: bool = False,
) -> list[MigrationRow]:
    """Commit the matrices that the value of `key` in `source` holds, all of them or none.

    One row for each matrix, in the order of the text, or one that says why the value holds none; what was
    committed has outcome `migrate`. A matrix that is rejected, or whose target is taken, is left where it
    is and does not keep the others back. The source is not touched.

    Raises VersionConflict where a target is written by another client at this moment, and what source and
    store raise; NamespaceNotFound, but in a dry run, where the store does not exist yet.
    """
    (value,) = await source.fetch([key])
    found = await asyncio.to_thread(
        examine, value, store.namespace, selection or Selection(), policy or Policy()
    )
    with contextlib.suppress(NamespaceNotFound):  # whether a commit creates it is for the store to say
        await compare(store, found.rows)
    puts = {row.target: found.puts[row.target] for row in found.rows if row.outcome == "migrate"}
    if puts and not dry_run:
        await store.commit_matrix_update(
            {target: admitted.data for target, admitted in puts.items()},
            CommitMetadata(verdicts=verdicts_of(puts), command=COMMAND),
            dict.fromkeys(puts, 0),
            commit_id=new_commit_id(),
        )
    return found.rows

"""Where a run that was stopped goes on, and which commits of the store are its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from somactl.errors import CorruptValue, KeyNotFound, NotFound, StoreDamaged
from somactl.legacy.journal import Journal, Page
from somactl.legacy.ownership import label_of_copy
from somactl.legacy.source.workspace import to_text
from somactl.report import MigrationRow
from somactl.store.contract import Stat, Store


async def recover(store: Store, journal: Journal) -> None:
    """Settle the batch that was under way, and go back to the last one whose matrices are all there.

    A store may have lost its newest commits, a Redis without fsync say. What it still has is a beginning of
    what it had, so that the first page from the end that stands is where to go on. A page without a commit
    says nothing about that.
    """
    await journal.recover()
    standing = journal.state.pages
    for number in range(standing, journal.state.first_page - 1, -1):
        page = await journal.page(number)
        if not page.commits:
            continue
        if await _stands(store, page):
            break
        standing = number - 1
    if standing < journal.state.pages:
        await journal.advance(phase="copying", pages=standing)


async def _stands(store: Store, page: Page) -> bool:
    """Whether the store holds every matrix that the page's commit wrote, its bytes digested anew.

    What has been overwritten or deleted since was there, and counts. Raises StoreDamaged for corrupt bytes.
    """
    contents = {row.target: row.content for row in page.rows if row.outcome == "migrate"}
    stats = (await store.stat_many(list(contents))).stats if contents else {}
    for key, content in contents.items():
        stat = stats.get(key)
        if stat is None or stat.content != content:
            if not await _was_there(store, key, page.commits):
                return False
            continue
        try:
            await store.read(key, stat.version)  # by its version: from the authority, not from a cache
        except CorruptValue as error:
            raise StoreDamaged(f"{key!r}, which this migration wrote, is corrupt: {error.message}") from error
        except NotFound:
            return False
    return True


async def _was_there(store: Store, key: str, commits: set[str]) -> bool:
    try:
        return any(revision.commit_id in commits for revision in await store.history(key))
    except KeyNotFound:
        return False


async def resolved_key(journal: Journal) -> str | None:
    """The last key of the source that is settled in this pass."""
    state = journal.state
    if state.pages < state.first_page:
        return None
    return to_text(bytes.fromhex((await journal.page(state.pages)).after))


async def reclaim(
    store: Store, journal: Journal, rows: Sequence[MigrationRow], stats: Mapping[str, Stat]
) -> list[str]:
    """Commits of this very pass that wrote some of the rows: these are no others' work, but `migrate`.

    A run may outlive the store's loss of its newest writes by one commit, which then stands in no journal.
    """
    by_commit: dict[str, list[MigrationRow]] = {}
    for row in rows:
        if row.outcome == "identical" and row.reason != "collision" and row.target in stats:
            by_commit.setdefault(stats[row.target].commit_id, []).append(row)
    own: list[str] = []
    for commit_id, written in by_commit.items():
        record = (await store.commit_status(commit_id)).record
        if (
            record is not None
            and record.metadata is not None
            and record.metadata.user == label_of_copy(journal)
        ):
            own.append(commit_id)
            for row in written:
                row.outcome = "migrate"
    return own

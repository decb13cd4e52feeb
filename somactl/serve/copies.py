"""What a cache holds of the watched keys: compared with the authority, and proven."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence

from msgspec.structs import replace

from somactl.core.names import Pattern
from somactl.operations.audit.copies import check_copies
from somactl.operations.audit.model import Check
from somactl.operations.copies import FINDINGS, STALE, Compared, compare, is_key
from somactl.report import Checked
from somactl.serve.model import CACHE, Proof, Trouble
from somactl.serve.proofs import as_proof
from somactl.serve.pulse import Pulse
from somactl.store.cached import CachedStore

STRAY_PAGES = 20
"""Pages of names that a round lists of the cache: it may hold far more than copies."""
MAX_STRAYS = 1000


class Copies:
    """The copies of one namespace.

    strays       keys of which the cache holds copies although the authority does not list them
    whole_since  no other stray was there at any time since then; None: not all names were listed yet
    """

    def __init__(self, pair: CachedStore, pulse: Pulse, check: Check, clock: Callable[[], float]) -> None:
        self._pair, self._pulse, self._check, self._clock = pair, pulse, check, clock
        self.strays: set[str] = set()
        self.whole_since: float | None = None
        self._names: AsyncIterator[list[str]] | None = None
        self._names_since = 0.0
        self.forget()

    def forget(self) -> None:
        """The namespace is in another incarnation, or is not there."""
        self._held: dict[str, float] = {}  # until when a copy lives, unless it is lost
        self._lost: dict[str, float] = {}  # until when a copy had lived that was lost
        self._old: dict[str, int] = {}  # the version of a copy that was outdated at the last look

    async def look(self, keys: Sequence[str]) -> list[Proof]:
        """What the copies of `keys` are; they are compared only where the authority answers.

        Raises StoreUnavailable, NamespaceNotFound.
        """
        compared: dict[str, Compared] = {}
        authority = self._pulse.authority.name
        if self._pulse.up(authority):
            both = self._pulse.while_up(CACHE, compare(self._pair, keys))
            compared = {one.key: one for one in await self._pulse.while_up(authority, both)}
        checked = await self._pulse.while_up(CACHE, self._checked(keys))
        now = self._clock()
        for one in compared.values():
            self._remember(one, now)
        found = [self._proof(key, checked.get(key), compared.get(key)) for key in keys]
        self.strays.difference_update(proof.key for proof in found if proof.outcome == "absent")
        return found

    async def _checked(self, keys: Sequence[str]) -> dict[str, Checked]:
        outcomes = check_copies(self._pair.cache, keys, self._check)
        return {key: checked async for key, checked in outcomes if checked is not None}

    def _proof(self, key: str, checked: Checked | None, one: Compared | None) -> Proof:
        if checked is None or (one is not None and one.judgement == "foreign"):
            return Proof(key, "absent")  # a copy of another incarnation is never served
        proof = as_proof(checked)
        if proof.outcome not in ("valid", "clampable") or one is None:
            return proof
        if one.judgement in FINDINGS:
            return replace(proof, outcome="contradicting", reasons=(one.difference,))
        if one.judgement in STALE and self._still_old(one):
            return replace(proof, outcome="stale", reasons=(one.difference,))
        return proof

    def _still_old(self, one: Compared) -> bool:
        """Whether the same copy was outdated before: a writer may be about to replace it."""
        assert one.held is not None
        before = self._old.get(one.key)
        self._old[one.key] = one.held.version
        return before == one.held.version

    def _remember(self, one: Compared, now: float) -> None:
        """Note until when a copy lives, or that it went before its time."""
        if one.judgement not in STALE:
            self._old.pop(one.key, None)
        if one.held is not None and one.held.content and one.held.defect is None:
            self._held[one.key] = now + self._pair.cache.ttl - one.age
            self._lost.pop(one.key, None)
            return
        until = self._held.pop(one.key, now)
        if until > now and one.stat is not None:
            self._lost[one.key] = until

    async def find_strays(self, patterns: Collection[Pattern], listed: Collection[str]) -> None:
        """Go on listing what the cache holds, page after page. Raises StoreUnavailable."""
        self.strays.difference_update(listed)
        if self._names is None:
            self._names, self._names_since = self._pair.cache.keys(), self._clock()
        names, self._names = self._names, None  # one that failed is not gone on with
        for _ in range(STRAY_PAGES):
            page = await self._pulse.while_up(CACHE, _page(names))
            if page is None:
                self.whole_since = self._names_since
                return
            self.strays.update(
                key
                for key in page
                if key not in listed and is_key(key) and any(each.matches(key) for each in patterns)
            )
            while len(self.strays) > MAX_STRAYS:
                self.strays.pop()
        self._names = names

    def troubles(self, incarnation: str) -> list[Trouble]:
        """What keeps the cache as a whole from serving as it should, where it answers."""
        pulse = self._pulse
        if not pulse.up(CACHE):
            return []
        found = []
        if pulse.slow is not None:
            found.append(_away(pulse.slow))
        if pulse.blocked:
            found.append(_away("an `init` has begun on the cache and not finished, so it serves nothing"))
        lost = self._lost_now()
        if lost and pulse.marker is None:
            found.append(_away(f"the cache was emptied: it lost its copies of {lost} watched keys"))
        if incarnation and pulse.serving not in (None, incarnation):
            said = "the cache serves another incarnation of the namespace, so it takes no copies"
            found.append(Trouble(cause="cache-differs", message=said, service=CACHE))
        return found

    def _lost_now(self) -> int:
        now = self._clock()
        self._lost = {key: until for key, until in self._lost.items() if until > now}
        return len(self._lost)


def _away(message: str) -> Trouble:
    return Trouble(cause="cache-away", message=f"{message}; reads go to the authority", service=CACHE)


async def _page(names: AsyncIterator[list[str]]) -> list[str] | None:
    return await anext(names, None)

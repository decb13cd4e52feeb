"""Bring observations to a gateway, the oldest first, and keep what does not get there.

What was kept by earlier runs goes first, with its times unchanged. A run that is older than the last one that
the gateway knows of its group is dropped: it would make an old state look like the newest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from somactl.errors import SomactlError
from somactl.telemetry.observe import Observation
from somactl.telemetry.pushgateway import Gateway, PushFailed
from somactl.telemetry.spool import Kept, Spool

GroupKey = frozenset[tuple[str, str]]
NO_TIME = "it says no time, so it cannot be told whether it is newer than what the gateway has"


@dataclass(frozen=True, slots=True)
class Parcel:
    """One group of one run on its way. source: the file it was read from; empty for this run's own."""

    group: Mapping[str, str]
    ended_at: float | None
    text: bytes
    source: str = ""

    @property
    def key(self) -> GroupKey:
        return frozenset(self.group.items())

    def __str__(self) -> str:
        told = ", ".join(f"{name} {value}" for name, value in self.group.items())
        return f"{self.source} ({told})" if self.source else told


@dataclass(slots=True)
class Delivered:
    """What became of parcels; dropped, kept and failed ones with the reason.

    lost  how many older entries had to go from the spool, for want of room
    """

    pushed: list[Parcel] = field(default_factory=list)
    dropped: list[tuple[Parcel, str]] = field(default_factory=list)
    kept: list[tuple[Parcel, str]] = field(default_factory=list)
    failed: list[tuple[Parcel, str]] = field(default_factory=list)
    lost: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether all that was to be pushed was."""
        return not (self.kept or self.failed)


def parcel(observation: Observation, source: str = "") -> Parcel:
    """The observation, written out."""
    from somactl.telemetry.registry import exposition

    return Parcel(observation.group, observation.ended_at, exposition(observation.samples), source)


def deliver(
    parcels: Sequence[Parcel], gateway: Gateway, spool: Spool | None = None, *, past: bool = False
) -> Delivered:
    """Push them; `past`: they are of runs that may have ended long ago, so each is compared with the gateway.

    Raises nothing but what interrupts it; what was not pushed by then is kept.
    """
    delivery = _Delivery(gateway, spool)
    if spool is None:
        delivery.run(parcels, [], past=past)
        return delivery.done
    with spool.alone() as alone:
        delivery.run(parcels, list(spool.entries()) if alone else [], past=past)
    return delivery.done


class _Delivery:
    def __init__(self, gateway: Gateway, spool: Spool | None) -> None:
        self._gateway, self._spool = gateway, spool
        self._last: dict[GroupKey, float] = {}
        self.done = Delivered()

    def run(self, parcels: Sequence[Parcel], entries: Sequence[Kept], *, past: bool) -> None:
        waiting = self._sorted(parcels) if past else list(parcels)
        try:
            if entries or (past and waiting):
                self._last = self._gateway.last_runs()
            self._resend(entries)
            while waiting:
                self._send_or_keep(waiting[0], past=past)
                waiting.pop(0)
        except PushFailed as exc:
            self._keep(waiting, str(exc))
        except BaseException:  # a signal
            self._keep(waiting, "it was interrupted")
            raise

    def _sorted(self, parcels: Sequence[Parcel]) -> list[Parcel]:
        """The newest of each group, the oldest first; the others are dropped."""
        newest: dict[GroupKey, Parcel] = {}
        for each in sorted(parcels, key=lambda each: each.ended_at or 0.0):
            if each.ended_at is None:
                self.done.failed.append((each, NO_TIME))
                continue
            if (older := newest.pop(each.key, None)) is not None:
                self.done.dropped.append((older, "a newer run of that group was given as well"))
            newest[each.key] = each
        return list(newest.values())

    def _resend(self, entries: Sequence[Kept]) -> None:
        """Push what the spool has. One that the gateway will never take is dropped."""
        for kept in entries:
            each = _parcel_of(kept)
            try:
                self._send(each, past=True)
            except PushFailed as exc:
                if not exc.refused:
                    raise
                self.done.dropped.append((each, str(exc)))
            assert self._spool is not None
            self._spool.drop(kept)

    def _send(self, each: Parcel, *, past: bool) -> None:
        last = self._last.get(each.key)
        if past and last is not None and each.ended_at is not None and each.ended_at < last:
            self.done.dropped.append((each, "the gateway has a later run of that group"))
            return
        self._gateway.push(each.group, each.text)
        self.done.pushed.append(each)
        if each.ended_at is not None:
            self._last[each.key] = each.ended_at

    def _send_or_keep(self, each: Parcel, *, past: bool) -> None:
        """What the gateway refuses says nothing about the others."""
        try:
            self._send(each, past=past)
        except PushFailed as exc:
            if not exc.refused:
                raise
            self._keep([each], str(exc))

    def _keep(self, waiting: Sequence[Parcel], why: str) -> None:
        """In the spool, if there is one and they have a time to be put in order by."""
        for each in waiting:
            if self._spool is None or each.ended_at is None:
                self.done.failed.append((each, why))
                continue
            try:
                self.done.lost += self._spool.keep(each.group, each.ended_at, each.text)
            except (OSError, SomactlError) as exc:
                told = exc.message if isinstance(exc, SomactlError) else f"{exc.strerror}".lower()
                self.done.failed.append((each, f"{why}; nor could it be kept: {told}"))
            else:
                self.done.kept.append((each, why))


def _parcel_of(kept: Kept) -> Parcel:
    entry = kept.entry
    return Parcel(entry.group, entry.ended_at, entry.text.encode(), kept.path)

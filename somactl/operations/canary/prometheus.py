"""A Prometheus as a source: what was scraped of histograms, counters and gauges, scrape by scrape.

A range query asks for what was scraped since the last look, so that nothing is filled in between scrapes:
a target that is gone tells nothing, and an old value is not told again. A counter tells by how much it grew
from one scrape to the next. Times are those of the scrapes, by the server's clock, which is compared.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final, Literal
from urllib.parse import urlencode

import msgspec

from somactl.core.canary_samples import AnySample, ArmName, Buckets, Counts, Degradation, Doubt, Proof
from somactl.core.canary_spec import Arm
from somactl.errors import ConfigurationError
from somactl.operations.canary.http import Site, in_a_line
from somactl.operations.canary.scrapes import Broken, Growth, Series, births, growths
from somactl.operations.canary.sources import Now, Unanswered

BACK_SECONDS: Final = 300.0
"""So far before the window the last scrape is looked for from which counters grow."""
CLOCK_SECONDS: Final = 5.0
"""By more than this the server's clock must not differ from ours."""
EMPTY_SECONDS: Final = 60.0
"""For so long a metric may be missing from the start of the window: a new target was not scraped yet."""

_METRIC = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\Z")
_METRICS: Final = ("latency", "requests", "errors", "commits", "conflicts", "psd", "trace_error", "degraded")
_OF_SHARES: Final[tuple[tuple[Literal["errors", "conflicts"], str, str], ...]] = (
    ("errors", "errors", "requests"),
    ("conflicts", "conflicts", "commits"),
)


class _Found(msgspec.Struct):
    metric: dict[str, str]
    values: list[tuple[float, str]] = []
    histograms: list[Any] = []


class _Data(msgspec.Struct):
    result_type: str = msgspec.field(name="resultType")
    result: msgspec.Raw


class _Answer(msgspec.Struct):
    """What the API answers to every question."""

    status: Literal["success", "error"]
    data: _Data | None = None
    error_type: str = msgspec.field(name="errorType", default="")
    error: str = ""
    warnings: list[str] = []


class Prometheus:
    """Asks a Prometheus for the metrics that an arm names. Raises ConfigurationError for what is none."""

    is_timed = False

    def __init__(self, name: ArmName, site: Site, arm: Arm, window: float, now: Now) -> None:
        self.arm = name
        self.start = 0.0
        self.cursor: dict[str, float] = {}
        self._site, self._of, self._now = site, arm, now
        if arm.trace_error is not None and arm.psd is None:
            raise ConfigurationError(
                f"`arms.{name}.trace_error` goes with psd, which says whose error it is",
                hint="name the gauge of psd too, such as somabrain_rho_psd_ok",
            )
        self._patience = min(EMPTY_SECONDS, window / 10)
        self._names = {
            field: selector(metric, arm.match, "_bucket" if field == "latency" else "")
            for field in _METRICS
            if (metric := getattr(arm, field)) is not None
        }

    async def begin(self) -> None:
        """There is nothing to open."""

    async def look(self, now: float) -> list[AnySample]:
        try:
            await self._compare_clocks()
            found = {field: await self._ask(field, query, now) for field, query in self._names.items()}
            await self._look_for_none(found, now)
        except Unanswered as exc:
            return [exc.doubt(self.arm, now)]
        samples = [*self._buckets(found), *self._shares(found), *self._gauges(found)]
        return sorted([*samples, *self._missing(found, now)], key=lambda sample: sample.t)

    async def close(self) -> None:
        """Nothing stays open."""

    async def _compare_clocks(self) -> None:
        """Raises Unanswered where the server's clock is another than ours."""
        before = self._now()
        data = await self._query("time()")
        after = self._now()
        try:
            theirs = float(msgspec.json.decode(data.result, type=tuple[float, str])[1])
        except (msgspec.DecodeError, ValueError) as exc:
            raise self._unreadable(f"does not tell its time: {exc}") from None
        off = theirs - before if theirs < before else max(theirs - after, 0.0)
        if not abs(off) <= CLOCK_SECONDS:
            word = "ahead of" if off > 0 else "behind"
            detail = f"that of {self._site.address} is {abs(off):.0f} s {word} this machine's"
            raise Unanswered("clocks", detail)

    async def _ask(self, field: str, query: str, now: float) -> list[Series]:
        """The scrapes of every series, from the last that was told on."""
        known = [
            at for name, at in self.cursor.items() if name.startswith(f"{field}/") and name != f"{field}/"
        ]
        since = min(known, default=self.start) - BACK_SECONDS
        seconds = max(math.ceil(now - since), 1)
        data = await self._query(f"{query}[{seconds}s]", time=f"{now:.3f}")
        try:
            found = msgspec.json.decode(data.result, type=list[_Found])
            series = [self._series(each) for each in found]
        except (msgspec.DecodeError, ValueError) as exc:
            raise self._unreadable(f"answers another form of result: {exc}") from None
        if any(each.histograms for each in found):
            raise self._unreadable(f"has {query} as a native histogram, which is not read")
        return series

    def _series(self, found: _Found) -> Series:
        labels = {name: value for name, value in found.metric.items() if name not in ("__name__", "le")}
        text = repr(sorted(labels.items()))
        target = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        points = {t: float(value) for t, value in found.values}
        instance = f"{labels.get('job')}/{labels.get('instance')}"
        return Series(target, instance, found.metric.get("le"), points)

    async def _query(self, query: str, **more: str) -> _Data:
        path = f"/api/v1/query?{urlencode({'query': query, **more})}"
        answer = await self._site.ask(path, self._read)
        if answer.warnings:
            raise self._unreadable(f"warns: {answer.warnings[0]}")
        if answer.data is None:
            raise self._unreadable("answers without data")
        return answer.data

    def _read(self, status: int, body: bytes) -> _Answer:
        try:
            answer = msgspec.json.decode(body, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._site.refuse_status(status, in_a_line(body))
            raise self._unreadable(f"answers {in_a_line(body) or 'nothing'}") from None
        self._site.refuse_status(status, f"{answer.error_type}: {answer.error}".strip(": "))
        if answer.status != "success":
            raise self._unreadable(f"answers {answer.error_type}: {answer.error}")
        return answer

    def _unreadable(self, what: str) -> Unanswered:
        return Unanswered("unreadable", f"{self._site.address} {what}")

    def _missing(self, found: dict[str, list[Series]], now: float) -> Iterator[AnySample]:
        """A metric that was never there, once a new target would have been scraped."""
        for field, series in found.items():
            if series:
                self.cursor.setdefault(f"{field}/", self.start)
            elif f"{field}/" not in self.cursor and now >= self.start + self._patience:
                detail = f"{self._site.address} has nothing for {self._names[field]}"
                yield Doubt(t=now, arm=self.arm, what="no-series", detail=detail)

    async def _look_for_none(self, found: dict[str, list[Series]], now: float) -> None:
        """Note that none failed where what failed is told by labels, and the same metric has other ones."""
        for field in ("errors", "conflicts"):
            metric = getattr(self._of, field)
            if metric and "{" in metric and not found[field] and f"{field}/" not in self.cursor:
                whole = selector(metric.partition("{")[0], self._of.match)
                if msgspec.json.decode((await self._query(f"count({whole})", time=f"{now:.3f}")).result):
                    self.cursor[f"{field}/"] = self.start

    def _growths(self, field: str, found: dict[str, list[Series]]) -> Iterator[Growth | Doubt]:
        """What counters grew by, since what was told last."""
        born = births(each for series in found.values() for each in series)
        for each in growths(found.get(field, []), self.start, self.cursor, f"{field}/", born):
            if isinstance(each, Broken):
                detail = f"{self._names[field]}: {each.detail}"
                yield Doubt(t=each.t, arm=self.arm, what=each.what, detail=detail)
            else:
                yield each

    def _buckets(self, found: dict[str, list[Series]]) -> Iterator[AnySample]:
        for growth in self._growths("latency", found):
            yield growth if isinstance(growth, Doubt) else self._of_buckets(growth)

    def _of_buckets(self, growth: Growth) -> AnySample:
        try:
            edges = sorted((float(le or math.nan), le) for le in growth.by)
            if not edges or edges[-1][0] != math.inf:
                raise ValueError("no bucket for all")
            counts = [growth.by[le] for _, le in edges]
            own = [counts[0], *(after - before for before, after in pairwise(counts))]
            if min(own) < 0:
                raise ValueError("a bucket holds less than the one below it")
        except (TypeError, ValueError) as exc:
            detail = f"{self._names['latency']} is no histogram: {exc}"
            return Doubt(t=growth.t, arm=self.arm, what="unreadable", detail=detail)
        return Buckets(t=growth.t, arm=self.arm, edges=[edge for edge, _ in edges[:-1]], counts=own)

    def _shares(self, found: dict[str, list[Series]]) -> Iterator[AnySample]:
        """Of all scrapes of one moment together, for what failed may have other labels than all."""
        for of, bad, total in _OF_SHARES:
            sums: dict[float, list[int]] = {}
            for place, field in enumerate((bad, total)):
                for growth in self._growths(field, found):
                    if isinstance(growth, Doubt):
                        yield growth
                    else:
                        sums.setdefault(growth.t, [0, 0])[place] += sum(growth.by.values())
            for t, (count, whole) in sorted(sums.items()):
                yield Counts(t=t, arm=self.arm, of=of, bad=count, total=whole)

    def _gauges(self, found: dict[str, list[Series]]) -> Iterator[AnySample]:
        errors = {
            (each.target, t): value
            for each in found.get("trace_error", [])
            for t, value in each.points.items()
        }
        for target, t, value in self._told("psd", found):
            if value not in (0.0, 1.0):
                yield self._odd("psd", t, value)
                continue
            psd: Literal["valid", "violated"] = "valid" if value else "violated"
            yield Proof(t=t, arm=self.arm, psd=psd, trace_error=errors.get((target, t)))
            if self._of.trace_error and (target, t) not in errors:
                detail = f"{self._names['trace_error']} has nothing beside {self._names['psd']}"
                yield Doubt(t=t, arm=self.arm, what="no-series", detail=detail)
        for _, t, value in self._told("degraded", found):
            if math.isfinite(value):
                yield Degradation(t=t, arm=self.arm, on=is_any_on(found["degraded"], t))
            else:
                yield self._odd("degraded", t, value)

    def _told(self, field: str, found: dict[str, list[Series]]) -> Iterator[tuple[str, float, float]]:
        """Target, time and value of each scrape that was not told before."""
        for each in found.get(field, []):
            name = f"{field}/{each.target}"
            for t in sorted(each.points):
                if t > self.cursor.get(name, self.start):
                    self.cursor[name] = t
                    yield each.target, t, each.points[t]

    def _odd(self, field: str, t: float, value: float) -> Doubt:
        detail = f"{self._names[field]} is {value:g}"
        return Doubt(t=t, arm=self.arm, what="rejected", detail=detail)


def is_any_on(series: list[Series], t: float) -> bool:
    """Whether a target was degraded when it was scraped last until t, not longer ago than two scrapes."""
    for each in series:
        times = sorted(at for at in each.points if at <= t)
        longest = max((after - before for before, after in pairwise(times)), default=0.0)
        if times and each.points[times[-1]] and t - times[-1] <= max(2 * longest, EMPTY_SECONDS):
            return True
    return False


def selector(metric: str, match: str | None, suffix: str = "") -> str:
    """`name{labels}` for a metric, which may have labels of its own, and the arm's labels.

    Raises ConfigurationError for what is no name of a metric.
    """
    found = _METRIC.match(metric)
    if found is None:
        raise ConfigurationError(
            f"{metric!r} is no metric", hint='write the name of a metric, or name{label="value"}'
        )
    labels = [found[2], match.strip().removeprefix("{").removesuffix("}") if match else None]
    inside = ",".join(each.strip().strip(",") for each in labels if each and each.strip())
    return f"{found[1]}{suffix}{{{inside}}}" if inside else f"{found[1]}{suffix}"

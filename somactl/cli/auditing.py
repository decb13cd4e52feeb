"""The options of an audit, and what may not stand together."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

import typer

from somactl.cli import inputs
from somactl.cli.quantities import parse_part
from somactl.config import completion
from somactl.core.quantities import Part, Share
from somactl.core.sampling import MAX_SEED
from somactl.errors import UsageError
from somactl.operations.audit.accepted import Accepted, parse_accepted
from somactl.operations.audit.finish import Demands
from somactl.operations.audit.shards import Shard
from somactl.report import AuditScope
from somactl.suggestion import again

_ALL: Final[dict[str, Any]] = {
    "all_": True,
    "match": None,
    "only_known_bad": None,
    "sample": None,
    "seed": None,
}
"""What makes of a command line that chose some keys one that takes all."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The options that say which matrices are proven."""

    PANEL: ClassVar[str] = "Which matrices"

    match: Annotated[str | None, typer.Option(metavar="PATTERN", help="All keys that match.")] = None
    all_: Annotated[bool, typer.Option("--all", help="Every key of the namespace.")] = False
    incremental: Annotated[
        bool, typer.Option("--incremental", help="With --all: what changed since it was last proven.")
    ] = False
    recheck: Annotated[
        str | None,
        typer.Option(metavar="5%|20GB", help="With --incremental: read that much of the rest again."),
    ] = None
    only_known_bad: Annotated[
        bool, typer.Option("--only-known-bad", help="Only what earlier audits of all keys found wrong.")
    ] = False
    sample: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Draw N of them, and say what that shows.")
    ] = None
    seed: Annotated[
        int | None, typer.Option(metavar="NUMBER", min=0, max=MAX_SEED, help="Draw the same sample again.")
    ] = None

    @property
    def part(self) -> Part:
        return Share(0.0) if self.recheck is None else parse_part(self.recheck, "--recheck")

    @property
    def drawn(self) -> int:
        """The seed of the sample."""
        return secrets.randbelow(MAX_SEED) if self.seed is None else self.seed

    def refuse_mixed(self, keys: list[str], files: list[str]) -> None:
        """Raises UsageError where options do not go together, or nothing is chosen."""
        ways = {"KEY": bool(keys), "--match": self.match is not None, "--all": self.all_}
        ways["--only-known-bad"] = self.only_known_bad
        chosen = [name for name, given in ways.items() if given]
        if self.incremental and not self.all_:
            raise UsageError("--incremental goes with --all", next=again(**_ALL))
        if self.recheck is not None and not self.incremental:
            raise UsageError("--recheck goes with --incremental", next=again(**_ALL, incremental=True))
        if not chosen and not files:
            raise UsageError(
                "nothing to verify",
                hint="name keys, or give --match PATTERN or --file FILE; --all takes every key",
                next=again(all_=True),
            )
        for one, other, left in (
            ("--match", "--all", again(match=None)),
            ("--only-known-bad", "--all", again(only_known_bad=None)),
            ("--only-known-bad", "--match", again(only_known_bad=None)),
        ):
            if ways[one] and ways[other]:
                raise UsageError(f"{one} and {other} do not go together", next=left)
        if self.sample is not None and self.incremental:
            raise UsageError(
                "--sample and --incremental do not go together", next=again(incremental=None, recheck=None)
            )
        if self.sample is not None and not (self.all_ or self.match is not None):
            raise UsageError(
                "--sample draws from --all or --match PATTERN", next=again(all_=True, only_known_bad=None)
            )
        if self.seed is not None and self.sample is None:
            raise UsageError("--seed goes with --sample N", next=again(seed=None))
        _ = self.part  # or what is wrong with it

    def scope(
        self, keys: list[str], files: list[str], origin: Literal["authority", "cache", "both"]
    ) -> AuditScope:
        return AuditScope(
            all=self.all_,
            match=self.match,
            keys=keys,
            files=files,
            known_bad=self.only_known_bad,
            origin=origin,
            incremental=self.incremental,
            sample=self.sample,
        )


@dataclass(frozen=True, slots=True)
class Machines:
    """The options that say where matrices are proven, and which share of them this run takes."""

    PANEL: ClassVar[str] = "Where they are proven"

    jobs: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Worker processes.", show_default="one for each processor"),
    ] = None
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Workers of this Dask scheduler: tcp://host:8786.")
    ] = None
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N|auto", help="With --all: this share; auto, in a Kubernetes Job."),
    ] = None
    run: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="What the shards of one run have in common.", show_default="today's date"
        ),
    ] = None

    @property
    def processes(self) -> int:
        if self.jobs is not None:
            return self.jobs
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @property
    def share(self) -> Shard | None:
        """Raises UsageError, ConfigurationError."""
        if self.shard is None:
            return None
        return Shard.of_job(*completion()) if self.shard == "auto" else Shard.parse(self.shard)

    def refuse_mixed(self, choice: Choice, origin: str) -> None:
        """Raises UsageError where options do not go together."""
        if self.shard is not None and choice.sample is not None:
            raise UsageError("--shard and --sample do not go together", next=again(sample=None, seed=None))
        if self.shard is not None and not choice.all_:
            raise UsageError("--shard goes with --all", next=again(**_ALL))
        if self.shard is not None and origin != "authority":
            raise UsageError(
                "--shard is of the keys in the authority: a cache has no shards", next=again(from_=None)
            )
        if self.run is not None and self.shard is None:
            raise UsageError("--run goes with --shard I/N", next=again(run=None))
        if self.dask is not None and self.jobs is not None:
            raise UsageError("--dask and --jobs do not go together", next=again(jobs=None))


@dataclass(frozen=True, slots=True)
class Kept:
    """The options about what an audit of all keys remembers, and about two at once."""

    PANEL: ClassVar[str] = "What is remembered"

    ledger: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Keep the ledger in this file, not in the store.", show_default="store"
        ),
    ] = None
    no_ledger: Annotated[bool, typer.Option("--no-ledger", help="Keep no ledger.")] = False
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an earlier run was ended, if one was.")
    ] = False
    on_overlap: Annotated[
        Literal["fail", "wait", "skip"], typer.Option(help="Where another audit is under way.")
    ] = "fail"

    @property
    def in_store(self) -> bool:
        """Whether the ledger is to be kept in the store itself."""
        return self.ledger is None and not self.no_ledger

    def refuse_mixed(self, choice: Choice, origin: str) -> None:
        """Raises UsageError where options do not go together."""
        if origin == "cache":
            self._refuse_what_a_cache_has_not(choice)
        if self.ledger is not None and self.no_ledger:
            raise UsageError("--ledger and --no-ledger do not go together", next=again(no_ledger=None))
        kept = choice.all_ and choice.sample is None
        if not (kept or choice.only_known_bad) and (self.ledger is not None or self.no_ledger):
            raise UsageError("a ledger is kept of --all alone", next=again(**_ALL))
        if not kept and (self.resume or self.on_overlap != "fail"):
            raise UsageError("--resume and --on-overlap go with --all", next=again(**_ALL))
        if self.no_ledger and (self.resume or choice.incremental or choice.only_known_bad):
            raise UsageError("without a ledger it is not known what was proven", next=again(no_ledger=None))

    def _refuse_what_a_cache_has_not(self, choice: Choice) -> None:
        given = {
            "--incremental": choice.incremental,
            "--only-known-bad": choice.only_known_bad,
            "--sample": choice.sample is not None,
            "--ledger": self.ledger is not None,
            "--resume": self.resume,
        }
        for name in (name for name, is_given in given.items() if is_given):
            raise UsageError(
                f"{name} is about what the authority has, and does not go with --from cache",
                next=again(from_=None),
            )


@dataclass(frozen=True, slots=True)
class Demanded:
    """The options that say when an audit has passed."""

    PANEL: ClassVar[str] = "When it has passed"

    accept: Annotated[
        str | None, typer.Option(metavar="FILE", help="YAML: findings that are known, and whose they are.")
    ] = None
    at_least: Annotated[
        int, typer.Option(metavar="N", min=0, help="Exit 4 where fewer were checked.", show_default=False)
    ] = 0
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Exit 0 even where there was nothing to check.")
    ] = False
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first one that is not right.")
    ] = False
    evidence: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the report there, with its digest.")
    ] = None

    @property
    def demands(self) -> Demands:
        return Demands(self.allow_empty, self.at_least)

    def accepted(self) -> Accepted | None:
        """Raises what `parse_accepted` does."""
        return None if self.accept is None else parse_accepted(inputs.read_file(self.accept), self.accept)

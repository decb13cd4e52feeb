"""The options of a canary check: each field of its spec as a flag, what is kept, and what runs at its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from somactl.cli.quantities import parse_duration
from somactl.core.canary_spec import FIELDS, Field
from somactl.errors import UsageError
from somactl.suggestion import again

_NAMES = {"version": "spec-version"}  # `somactl --version` is something else


def flag_of(path: str) -> str:
    """The flag of a field of the spec: `arms.baseline.store` is --baseline-store."""
    plain = path.removeprefix("arms.").removeprefix("criteria.")
    return "--" + _NAMES.get(plain, plain).replace(".", "-").replace("_", "-")


def _attribute(path: str) -> str:
    return flag_of(path)[2:].replace("-", "_")


PATHS = {_attribute(path): path for path in FIELDS}
"""Name of a parameter -> path of its field."""


def _option(each: Field) -> Any:
    words = f"{each.what[0].upper()}{each.what[1:]}, such as {each.example}."
    return typer.Option(flag_of(each.path), metavar="VALUE", help=words, show_default=False)


def _group(name: str, panel: str, paths: Iterable[str]) -> Any:
    """A dataclass of options, one for each field of the spec."""
    members: list[Any] = [
        (_attribute(path), Annotated[str | None, _option(FIELDS[path])], field(default=None))
        for path in paths
    ]
    return make_dataclass(name, members, frozen=True, namespace={"PANEL": panel, "__module__": __name__})


def _below(*prefixes: str) -> Iterator[str]:
    return (path for path in FIELDS if path.startswith(prefixes))


if TYPE_CHECKING:

    class Times: ...

    class Baseline: ...

    class Candidate: ...

    class Limits: ...

else:
    Times = _group("Times", "Instead of the spec's", (path for path in FIELDS if "." not in path))
    Baseline = _group("Baseline", "Instead of the spec's, of the baseline", _below("arms.baseline."))
    Candidate = _group("Candidate", "Instead of the spec's, of the candidate", _below("arms.candidate."))
    Limits = _group("Limits", "Instead of the spec's, of the criteria", _below("criteria."))


def given(*groups: Any) -> dict[str, str]:
    """The fields that flags give, by their paths."""
    values = {each.name: getattr(group, each.name) for group in groups for each in fields(group)}
    return {PATHS[name]: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class What:
    """The options that say what is judged."""

    PANEL: ClassVar[str] = "What is judged"

    spec: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="YAML: the arms, the criteria and the window.")
    ] = None
    samples: Annotated[
        str | None,
        typer.Option(metavar="FILE|-", help="NDJSON: judge this recording, as if it arrived live."),
    ] = None

    def replaced(self) -> dict[str, str]:
        """The fields of the spec that `--samples` stands for."""
        if self.samples is None:
            return {}
        arms = ("baseline", "candidate")
        values = {"source": "samples", "file": self.samples}
        return {f"arms.{arm}.{name}": value for arm in arms for name, value in values.items()}


STORE = "store"
"""What `--state` says for a note of the store."""


@dataclass(frozen=True, slots=True)
class Running:
    """The options that say how long a run stays, and what it keeps."""

    PANEL: ClassVar[str] = "How it runs"

    once: Annotated[
        bool, typer.Option("--once", help="Look once and go, for cron: what was seen is kept.")
    ] = False
    reads: Annotated[
        int, typer.Option(metavar="N", min=1, help="With --once: how often a probe reads each arm.")
    ] = 10
    state: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|store",
            help="Keep there what was seen, and go on with it.",
            show_default="store with --once, else nothing",
        ),
    ] = None
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget what was kept, and begin a new window.")
    ] = False

    @property
    def kept_in(self) -> str | None:
        """A file, STORE, or None where nothing is kept."""
        return self.state or (STORE if self.once else None)

    def refuse_mixed(self, what: What) -> None:
        """Raises UsageError where options do not go together."""
        if what.samples is not None and (self.once or self.state is not None):
            raise UsageError(
                "a recording is judged at once: --once and --state do not go with --samples",
                next=again(once=None, state=None, reads=None, restart=None),
            )
        if self.restart and self.kept_in is None:
            raise UsageError("--restart goes with --once or --state", next=again(restart=None))


@dataclass(frozen=True, slots=True)
class Hooks:
    """The commands that are run when the verdict is final."""

    PANEL: ClassVar[str] = "What is run when the verdict is final, with the verdict as JSON on stdin"

    on_pass: Annotated[str | None, typer.Option(metavar="COMMAND", help="Run this on PASS.")] = None
    on_fail: Annotated[str | None, typer.Option(metavar="COMMAND", help="Run this on FAIL.")] = None
    on_hold: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="Run this on INCONCLUSIVE and INSUFFICIENT.")
    ] = None
    hook_timeout: Annotated[
        str, typer.Option(metavar="TIME", help="Such a command is ended after so long.")
    ] = "60s"
    hook_shell: Annotated[
        bool, typer.Option("--hook-shell", help="Run it by /bin/sh; else its words are run as they are.")
    ] = False

    @property
    def seconds(self) -> float:
        return parse_duration(self.hook_timeout, "--hook-timeout")

    def check(self) -> None:
        """Raises UsageError for what is no command, or no time."""
        from somactl.operations.canary.hooks import words_of

        _ = self.seconds
        for name in ("on_pass", "on_fail", "on_hold"):
            try:
                words_of(getattr(self, name) or "true")
            except ValueError as exc:
                flag = "--" + name.replace("_", "-")
                raise UsageError(f"{flag}: this is no command: {str(exc).lower()}") from None

    def command(self, on: str) -> str | None:
        return {"pass": self.on_pass, "fail": self.on_fail, "hold": self.on_hold}[on]

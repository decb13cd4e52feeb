"""The options of a canary check: each field of its spec as a flag, what is kept, and what runs at its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from somactl.core.canary_spec import FIELDS, Field

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

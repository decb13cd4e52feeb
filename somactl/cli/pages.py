"""The pages that are shipped with somactl, and how one is found by a topic, a code or an error's name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from somactl import errors
from somactl.config import TOLERANCES
from somactl.core.verdict import INVARIANTS, Invariant
from somactl.package_data import data_file
from somactl.report import EXIT_CODES

FOLDERS = ("RUNBOOKS", "docs")


@dataclass(frozen=True, slots=True)
class Page:
    """One page: `name` as a file of the package, and its Markdown."""

    name: str
    text: str

    @staticmethod
    def topics() -> Iterator[str]:
        """Every word that `find` knows, pages first."""
        yield from (path.stem for _, path in _shipped())
        yield from map(str, sorted(EXIT_CODES))
        yield from sorted(error_classes())
        yield from (invariant.name for invariant in INVARIANTS)


def _shipped() -> Iterator[tuple[str, Path]]:
    """The folder and the file of each page, in the order of their names in each folder."""
    for folder in FOLDERS:
        for path in sorted(data_file(folder).glob("*.md")):
            if path.stem != "README":
                yield folder, path


def find(topic: str) -> Page | None:
    """The page about `topic`, whatever its case; None where there is none."""
    wanted = topic.removesuffix(".md").rpartition("/")[2].lower()
    for folder, path in _shipped():
        if path.stem.lower() == wanted:
            return Page(f"{folder}/{path.name}", path.read_text(encoding="utf-8"))
    if wanted.isdecimal() and int(wanted) in EXIT_CODES:
        return _code(int(wanted))
    for invariant in INVARIANTS:
        if invariant.name == wanted:
            return Page("docs/INVARIANTS.md", invariant_page(invariant))
    kind = next((c for name, c in error_classes().items() if name.lower() == wanted), None)
    return None if kind is None else _error(kind)


def index() -> str:
    """What can be asked for."""
    lines = ["Runbooks and documents: somactl explain TOPIC", ""]
    for _, path in _shipped():
        title = path.read_text(encoding="utf-8").partition("# ")[2].partition("\n")[0]
        lines.append(f"  {path.stem:<20} {title}")
    lines += ["", "Exit codes: somactl explain CODE", ""]
    lines += [f"  {code:<20} {EXIT_CODES[code]}" for code in sorted(EXIT_CODES)]
    lines += ["", "Errors: somactl explain NAME", ""]
    lines += [f"  {name:<20} exit code {c.exit_code}" for name, c in sorted(error_classes().items())]
    lines += ["", "Invariants: somactl explain NAME", ""]
    lines += [f"  {each.name:<20} {each.holds}" for each in INVARIANTS]
    return "\n".join(lines)


def invariant_page(invariant: Invariant) -> str:
    """What must hold, how it is measured, what is allowed for, and what a refusal is called."""
    lines = [f"# {invariant.name}", "", invariant.holds, ""]
    field = f"; the field `{invariant.name}_error` of a verdict" if invariant.measure else ""
    lines += [f"- Measured: `{invariant.symbol}`{field}."] if invariant.symbol else []
    if invariant.tolerance is not None:
        setting = TOLERANCES[f"{invariant.name}_tolerance"]
        told = f"{setting.effect}, {setting.default} unless said otherwise"
        lines.append(f"- Tolerance: `{setting.flag}`, `{setting.variable}`: {told}.")
    refusal = invariant.error
    lines.append(f"- Refused with `{refusal.__name__}`, exit code {refusal.exit_code}.")
    return "\n".join(lines)


def error_classes() -> dict[str, type[errors.SomactlError]]:
    """The tree of errors, by name."""
    found = (c for _, c in inspect.getmembers(errors, inspect.isclass))
    return {c.__name__: c for c in found if issubclass(c, errors.SomactlError)}


def _code(code: int) -> Page:
    names = sorted(name for name, c in error_classes().items() if c.exit_code == code)
    runbooks = sorted({c.runbook for c in error_classes().values() if c.exit_code == code and c.runbook})
    lines = [f"# Exit code {code}", "", f"{EXIT_CODES[code][0].upper()}{EXIT_CODES[code][1:]}."]
    lines += ["", "Errors that end with it: " + ", ".join(names) + "."] if names else []
    lines += ["", *(f"    somactl explain {page}" for page in runbooks)] if runbooks else []
    return Page("docs/EXIT_CODES.md", "\n".join(lines))


def _error(kind: type[errors.SomactlError]) -> Page:
    own = inspect.cleandoc(kind.__doc__ or "") or f"{EXIT_CODES[kind.exit_code]}."
    again = (
        "The same call may succeed if it is made again" if kind.retryable else "Repeating it does not help"
    )
    lines = [f"# {kind.__name__}", "", own, ""]
    lines += [f"Exit code {kind.exit_code}: {EXIT_CODES[kind.exit_code]}. {again}."]
    page = find(kind.runbook) if kind.runbook else None
    if page is None:
        return Page("docs/EXIT_CODES.md", "\n".join(lines))
    return Page(page.name, "\n".join([*lines, "", page.text]))

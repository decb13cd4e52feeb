"""Write the pages and schemas that follow from the code, or check that they are up to date.

    python docs/generate.py          write docs/{CLI,CONFIGURATION,EXIT_CODES,INVARIANTS,METRICS}.md, schemas
    python docs/generate.py --check  change nothing; exit 1 and name what is out of date

A schema of a released version is frozen: a change of a report's shape raises `report.SCHEMA_VERSION` and
gives new files with `_v2` in their names.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
import typer
from typer.models import ArgumentInfo, OptionInfo

from somactl import config, config_file, errors, report
from somactl.address.address import KNOWN
from somactl.address.parse import SHAPES
from somactl.cli.app import COMMANDS, load
from somactl.cli.command import COMMON, Command, default_in_words
from somactl.cli.pages import invariant_page
from somactl.core.verdict import INVARIANTS
from somactl.serve import openapi
from somactl.telemetry import catalogue

ROOT = Path(__file__).resolve().parent.parent
HEADER = "<!-- Generated from the code by `make docs`: do not edit. -->\n\n"


def main(arguments: list[str]) -> int:
    """Write or check every generated file; the exit code."""
    wanted = {
        ROOT / "docs/EXIT_CODES.md": exit_codes_page(),
        ROOT / "docs/CLI.md": cli_page(),
        ROOT / "docs/CONFIGURATION.md": configuration_page(),
        ROOT / "docs/INVARIANTS.md": invariants_page(),
        ROOT / "docs/METRICS.md": metrics_page(),
        ROOT / "schemas/openapi.json": openapi.text().decode(),
        **{ROOT / "schemas" / name: text for name, text in schemas()},
    }
    stale = [path for path, text in wanted.items() if _read(path) != text]
    orphans = [path for path in (ROOT / "schemas").glob("report.*.json") if path not in wanted]
    if arguments == ["--check"]:
        for path in [*stale, *orphans]:
            print(f"{path.relative_to(ROOT)} does not follow from the code: run `make docs`", file=sys.stderr)
        return 1 if stale or orphans else 0
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    for path in orphans:
        path.unlink()
        print(f"removed {path.relative_to(ROOT)}")
    return 0


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def error_classes(
    root: type[errors.SomactlError] = errors.SomactlError,
) -> Iterator[type[errors.SomactlError]]:
    """Every error class of the tree, parents before children, in the order of the source."""
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from error_classes(child)


def exit_codes_page() -> str:
    """docs/EXIT_CODES.md: the codes, what wins where several apply, and every error class."""
    lines = [
        "# Exit codes",
        "",
        "One number says what a run of `somactl` came to. No command has codes of its own.",
        "",
        "| code | meaning |",
        "|---|---|",
        *(f"| {code} | {_cell(report.EXIT_CODES[code])} |" for code in sorted(report.EXIT_CODES)),
        "",
        "Where several apply, the process exits with the first of "
        + ", ".join(str(code) for code in report.PRECEDENCE)
        + "; the report lists all of them in `codes`. A pipe that its reader closes ends the command "
        "quietly, with the code its work earned.",
        "",
        "## Errors",
        "",
        "The name stands in the field `error` of what a failed command prints on stderr with",
        "`--output json`. *Again* says whether the same call may succeed if it is simply made again.",
        "",
        "| error | code | again | runbook | what it says |",
        "|---|---|---|---|---|",
        *(_error_row(cls) for cls in error_classes()),
        "",
    ]
    return HEADER + "\n".join(lines)


def _error_row(cls: type[errors.SomactlError]) -> str:
    page = f"[{cls.runbook}](../RUNBOOKS/{cls.runbook}.md)" if cls.runbook else ""
    again = "yes" if cls.retryable else "no"
    return f"| `{cls.__name__}` | {cls.exit_code} | {again} | {page} | {_cell(_first_paragraph(cls))} |"


def _first_paragraph(cls: type[errors.SomactlError]) -> str:
    own = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    text = own or report.EXIT_CODES[cls.exit_code] + "."
    return text[0].upper() + text[1:]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def schemas() -> Iterator[tuple[str, str]]:
    """File name and text of the JSON Schema of each report, of a failure, of evidence and of health."""
    for cls in report.REPORTS:
        yield _schema(f"report.{cls.__struct_config__.tag}", cls)
    yield _schema("report.error", report.ErrorReport)
    yield _schema("evidence", report.EvidenceDocument)
    yield _schema("health", report.HealthReport)


def _schema(name: str, cls: type[msgspec.Struct]) -> tuple[str, str]:
    (reference,), components = msgspec.json.schema_components([cls], ref_template="#/$defs/{name}")
    body = components.pop(str(reference["$ref"]).removeprefix("#/$defs/"))
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{name}.json",
        **body,
    }
    if components:
        schema["$defs"] = dict(sorted(components.items()))
    text = msgspec.json.format(msgspec.json.encode(_dedented(schema)), indent=2).decode()
    return f"{name}.json", text + "\n"


def _dedented(schema: Any) -> Any:
    """The schema with its descriptions as Python 3.13 and later compile docstrings: without indentation."""
    if isinstance(schema, list):
        return [_dedented(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: inspect.cleandoc(part) if key == "description" and isinstance(part, str) else _dedented(part)
        for key, part in schema.items()
    }


def cli_page() -> str:
    """docs/CLI.md: the whole surface on one page, read from the commands themselves."""
    commands = {name: load(name) for name in COMMANDS}
    sections = [
        "# The command line",
        "",
        "```text",
        "somactl COMMAND [OPTIONS] [ARGUMENTS]",
        "```",
        "",
        "| command | what it does |",
        "|---|---|",
        *(
            f"| [{name}](#somactl-{name.replace(' ', '-')}) | {_cell(_summary(command))} |"
            for name, command in commands.items()
        ),
        "",
        "Exit codes: [EXIT_CODES.md](EXIT_CODES.md). JSON output: one schema for each command, in "
        "[schemas](../schemas).",
        "",
        "## Options of every command",
        "",
        *_options_table(COMMON_OPTIONS),
        "`--help` explains a command; `somactl --version` prints the version.",
        "",
        "## Settings",
        "",
        "What a flag, a variable and the configuration file can set: [CONFIGURATION.md](CONFIGURATION.md).",
        "",
    ]
    for name, command in commands.items():
        sections += _command_section(name, command)
    return HEADER + "\n".join(sections).rstrip() + "\n"


def configuration_page() -> str:
    """docs/CONFIGURATION.md: every setting, every other variable, and what an address may say."""
    lines = [
        "# Configuration",
        "",
        "A flag wins over the environment, the environment over the configuration file, the file over the",
        "default. `somactl config` shows each value and where it comes from, without secrets; it ends with",
        "10 where one cannot be used.",
        "",
        "## Settings",
        "",
        "| in the file | flag | variable | default | unit | effect |",
        "|---|---|---|---|---|---|",
        *(_setting_row(name, setting) for name, setting in config.SETTINGS.items()),
        "",
        f"The flags of the tolerances belong to {_listed(_commands_with('psd_tolerance'))}; the others to",
        "every command. An empty variable counts as not set.",
        "",
        "## Variables that are no settings",
        "",
        "| variable | flag | effect |",
        "|---|---|---|",
        *(f"| `{name}` | {_code(flag)} | {effect} |" for name, (flag, effect) in config.VARIABLES.items()),
        "",
        "A PostgreSQL store also reads `PGUSER`, `PGDATABASE`, `PGPASSWORD`, `PGPASSFILE` and the `PGSSL`",
        "variables for what its URL leaves out: [STORE_POSTGRES.md](STORE_POSTGRES.md).",
        "",
        "## The configuration file",
        "",
        "YAML where its name ends in `.yaml` or `.yml`, else TOML: one line for each setting, no nesting, at",
        f"most {config_file.MOST_BYTES >> 10} KiB. A name that is not known, or given twice, is refused.",
        "",
        "```toml",
        'store = "postgresql://soma@db.example/soma"',
        "retry_seconds = 10",
        "```",
        "",
        "```yaml",
        "store: postgresql://soma@db.example/soma",
        "psd_tolerance: 1e-8",
        "```",
        "",
        *_addresses(),
    ]
    return HEADER + "\n".join(lines)


def invariants_page() -> str:
    """docs/INVARIANTS.md: what must hold of a density matrix, one section for each entry of the list."""
    lines = [
        "# Invariants",
        "",
        "What a `rho` must hold to be stored, in the order in which it is checked. How each is proved, and",
        "with what rigour, says [CERTIFICATE.md](CERTIFICATE.md).",
        "",
        *(f"#{invariant_page(each)}\n" for each in INVARIANTS),
        "Refused, a commit writes nothing, and an audit that finds one broken ends with 3.",
    ]
    return HEADER + "\n".join(lines).rstrip() + "\n"


def metrics_page() -> str:
    """docs/METRICS.md: every metric that is ever pushed, the labels, and what an operator asks."""
    told = re.sub(r"\n\n +\S.*\n\n", "\n\n", inspect.cleandoc(catalogue.__doc__ or "")).split("\n\n")
    lines = [
        "# Metrics",
        "",
        *(f"{part}\n" for part in told[1:]),
        "Every metric has the labels of its group, the grouping key of the Pushgateway:",
        "",
        *(f"- `{label}`: {what}" for label, what in catalogue.GROUPING.items()),
        "",
        "How they get to Prometheus says [PUSHING.md](PUSHING.md).",
        "",
        "No label ever names a key, a machine or a process. `server` is `somactl serve`, whose `/metrics`",
        "Prometheus reads itself: it names the namespace of each of its metrics, but for those of the whole",
        "process, " + ", ".join(f"`{name}`" for name in catalogue.OF_PROCESS) + ".",
        "",
        "| metric | type | unit | labels | what it says | given by |",
        "|---|---|---|---|---|---|",
        *(_metric_row(metric) for metric in catalogue.METRICS.values()),
        "",
        f"Edges of the histograms, in seconds: {', '.join(map(str, catalogue.BUCKETS))}.",
        "",
        "## What an operator asks",
        "",
        *(f"- {question}\n\n  ```text\n  {query}\n  ```" for question, query in catalogue.QUESTIONS.items()),
    ]
    return HEADER + "\n".join(lines) + "\n"


def _metric_row(metric: catalogue.Metric) -> str:
    labels = [f"`{name}`: {', '.join(values)}" for name, values in metric.labels.items()]
    given = ", ".join(metric.sources)
    if metric.sources[: len(catalogue.JOBS)] == catalogue.JOBS:
        given = ", ".join(["every job", *metric.sources[len(catalogue.JOBS) :]])
    cells = [f"`{metric.name}`", metric.type, metric.unit, "; ".join(labels), metric.help, given]
    return f"| {' | '.join(map(_cell, cells))} |"


def _setting_row(name: str, setting: config.Setting) -> str:
    cells = [f"`{name}`", _code(setting.flag), f"`{setting.variable}`", _code(setting.default)]
    return f"| {' | '.join([*cells, setting.unit, setting.effect])} |"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _commands_with(parameter: str) -> list[str]:
    return [
        f"`{name}`" for name in COMMANDS if parameter in inspect.signature(load(name).callback).parameters
    ]


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _addresses() -> list[str]:
    """What a URL may say, from the parser's own tables."""
    uses: dict[str, list[str]] = {}
    for (kind, use), names in KNOWN.items():
        forms = re.sub(",? or ", "` or `", SHAPES[kind]).replace(", ", "`, `")
        row = f"| {{}} | `{forms}` | {_names(names)} |"
        uses.setdefault(row, []).append(use)
    return [
        "## Addresses",
        "",
        "Every part of a URL is honoured or refused (10). What was not understood is quoted in no message,",
        "since any part of it may be a password. A URL with a password is refused on the command line, which",
        "every process of the machine can read.",
        "",
        "| names a | form | parameters |",
        "|---|---|---|",
        *(row.format(", ".join(names)) for row, names in uses.items()),
        "",
    ]


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


@dataclass(frozen=True)
class Parameter:
    """One argument or option of a command, as its function declares it."""

    name: str
    type: Any
    info: ArgumentInfo | OptionInfo
    default: Any

    @property
    def repeatable(self) -> bool:
        return any(get_origin(part) is list for part in (self.type, *get_args(self.type)))

    @property
    def value(self) -> str:
        """What stands for the value in a usage line; empty for a flag."""
        if self.info.metavar:
            return str(self.info.metavar)
        choices = [
            c
            for part in (self.type, *get_args(self.type))
            if get_origin(part) is Literal
            for c in get_args(part)
        ]
        if choices:
            return "|".join(map(str, choices))
        kinds = {part for part in (self.type, *get_args(self.type)) if isinstance(part, type)}
        names = {bool: "", int: "N", float: "X", str: self.name.rstrip("_").upper()}
        return next(text for kind, text in names.items() if kind in kinds)


def _parameters(callback: Any) -> list[Parameter]:
    found = []
    for name, parameter in inspect.signature(callback).parameters.items():
        if parameter.annotation is typer.Context:
            continue
        if get_origin(parameter.annotation) is Annotated:
            annotated, info = get_args(parameter.annotation)
        else:
            annotated, info = parameter.annotation, ArgumentInfo()
        found.append(Parameter(name, annotated, info, parameter.default))
    return found


COMMON_OPTIONS = [
    Parameter(name, get_args(annotation)[0], get_args(annotation)[1], default)
    for name, (annotation, default) in COMMON.items()
]


def _command_section(name: str, command: Command) -> list[str]:
    parameters = [p for p in _parameters(command.callback) if p.name not in COMMON]
    arguments = [p for p in parameters if isinstance(p.info, ArgumentInfo)]
    usage = " ".join(["somactl", name, "[OPTIONS]", *(_usage(argument) for argument in arguments)])
    lines = [f"## somactl {name}", "", command.help, "", "```text", usage, "```", ""]
    if any(argument.info.help for argument in arguments):
        lines += [f"- `{_usage(a)}`: {a.info.help}" for a in arguments if a.info.help] + [""]
    lines += _options_table([p for p in parameters if isinstance(p.info, OptionInfo)])
    return lines + ([_clean(command.epilog), ""] if command.epilog else [])


def _usage(argument: Parameter) -> str:
    name = argument.value if argument.info.metavar else argument.name.upper()
    if argument.repeatable and not name.endswith("..."):
        name += "..."
    required = argument.default is inspect.Parameter.empty
    return name if required or name.startswith("[") else f"[{name}]"


def _options_table(options: list[Parameter]) -> list[str]:
    if not options:
        return []
    rows = [f"| {_cell(_option_names(option))} | {_cell(_option_help(option))} |" for option in options]
    return ["| option | |", "|---|---|", *rows, ""]


def _option_names(option: Parameter) -> str:
    assert isinstance(option.info, OptionInfo)
    # Inside Annotated, typer takes the first name for a default and puts it right when it builds the parser.
    first = option.info.default if isinstance(option.info.default, str) else None
    names = [name for name in (first, *(option.info.param_decls or ())) if name]
    names = names or [f"--{option.name.rstrip('_').replace('_', '-')}"]
    return ", ".join(f"`{f'{name} {option.value}'.strip()}`" for name in names)


def _option_help(option: Parameter) -> str:
    text = _clean(option.info.help or "")
    if option.repeatable:
        text += " Repeatable."
    default = default_in_words(option.info.show_default, option.default)
    if default:
        text += f" Default: {default}."
    return text.strip()


def _summary(command: Command) -> str:
    return _clean(command.help.split("\n\n")[0])


def _clean(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

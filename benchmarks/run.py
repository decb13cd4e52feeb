"""`make bench`: one table of ratios, each measured side by side in one run.

    benchmarks/run.py                    the whole table (some ten minutes on two cores)
    benchmarks/run.py --only certify     the rows whose name begins so; may be given several times
    benchmarks/run.py --list             the names of the rows
    benchmarks/run.py --quick            fewer rounds: a first impression, no figure to quote
    benchmarks/run.py --json             one JSON object a line: the facts, then each row
    benchmarks/run.py --write-docs       also put the table into docs/BENCHMARKS.md

A goal that is missed is printed as missed, and the exit code stays 0: a slow machine is no broken program.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import audit_fleet
import audit_whole
import bulk_reads
import certificate
import codec
import legacy_values
import load
import memory
import peers
import pushing
import serving
import startup
import stores
from measure import QUICK, Effort, Memory, Row, cores, large_buffers
from threadpoolctl import threadpool_info

import audit
import canary
import prune
from somactl.core.lapack import flapack

DOCS = Path(__file__).resolve().parent.parent / "docs" / "BENCHMARKS.md"
BUSY = 0.7
"""A load average above which a measurement is not worth quoting."""
BEGIN, END = "<!-- table: benchmarks/run.py --write-docs -->", "<!-- end of table -->"


class Group(NamedTuple):
    """What is measured together, the names of the rows it yields, and the memory it wants."""

    run: Callable[[Effort], list[Row]]
    names: list[str]
    memory: Memory = "reused"


def _full_rank(n: int) -> Group:
    rows = ["certify", "ceiling", "distance", "copying"] + (["flops"] if n == 4096 else [])
    return Group(partial(certificate.full_rank, n), [f"{row}-{n}" for row in rows])


def _peers(n: int, suffix: str = "") -> Group:
    compare = partial(peers.compare, n, complex_=bool(suffix))
    return Group(compare, [f"{peer}-{n}{suffix}" for peer in peers.GOALS])


def _codec(memory: Memory) -> Group:
    return Group(partial(codec.codec, memory), [f"{row}-{memory}" for row in codec.ROWS], memory)


#: in the order of the table
GROUPS = [
    *(_full_rank(n) for n in (1024, 2048, 4096)),
    *(_peers(n) for n in (1024, 2048)),
    _peers(1024, "-complex"),
    Group(certificate.rank_eighth, ["rank-eighth"]),
    Group(certificate.rank_sixtyfourth, ["rank-sixtyfourth"]),
    Group(certificate.packed_bytes, ["packed", "packed-envelope"]),
    Group(certificate.small, ["small-16", "small-64"]),
    Group(audit.pages, audit.ROWS),
    Group(audit_whole.before, ["audit-before"]),
    Group(audit_whole.postgres, ["audit-postgres"]),
    Group(audit_whole.redis, ["audit-redis"]),
    Group(audit_whole.incremental, ["audit-incremental"]),
    Group(audit_whole.memory, ["audit-memory"]),
    Group(audit_fleet.fleet, audit_fleet.ROWS),
    Group(codec.size, ["size-hermitian"]),
    _codec("fresh"),
    _codec("reused"),
    Group(canary.cost, canary.COST),
    *(
        Group(partial(canary.false_alarms, name), [f"canary-false-{name}"])
        for name in canary.simulation.ALIKE
    ),
    *(Group(partial(canary.power, sigma), canary.power_rows(sigma)) for sigma in canary.SIGMAS),
    Group(startup.startup, ["startup-version", "startup-ls"]),
    Group(pushing.push_cost, ["push-cost"]),
    Group(serving.faces, serving.ROWS),
    Group(serving.start, ["serve-start"]),
    Group(memory.verify_psd, ["memory-full", "memory-hermitian"]),
    Group(stores.redis_commit, ["redis-commit"]),
    Group(stores.redis_script, ["redis-script-equal", "redis-script-time"]),
    Group(stores.redis_read, ["redis-read"]),
    Group(stores.postgres_commit, ["postgres-commit"]),
    Group(bulk_reads.bulk_read_postgres, ["bulk-read-postgres"]),
    Group(bulk_reads.bulk_read_redis, ["bulk-read-redis"]),
    Group(
        stores.layouts,
        [f"layout-{name}-{verb}" for name in ("redis", "postgres") for verb in ("write", "read")],
    ),
    Group(load.hybrid, ["hybrid-open", "hybrid-saturated", "hybrid-paused-first", "hybrid-paused"]),
    Group(
        load.small_commits,
        [f"small-{name}-{spread}" for name in ("postgres", "redis") for spread in ("many", "one")],
    ),
    Group(prune.postgres, ["prune-postgres"]),
    Group(legacy_values.lists, ["json-lists", "json-lists-proved"]),
    Group(legacy_values.numpy_forms, ["json-base64"]),
    Group(legacy_values.whole, ["migrate"]),
    Group(legacy_values.memory, ["migrate-memory"]),
    Group(prune.redis, ["prune-redis", "prune-redis-blocked", "prune-redis-batch"]),
]
NAMES = [name for group in GROUPS for name in group.names]


def measured(only: Sequence[str], effort: Effort) -> Iterator[Row]:
    """The rows asked for (all, if `only` is empty), as they come: first what needs fresh memory."""
    kinds: tuple[Memory, ...] = ("fresh", "reused")
    for kind in kinds:
        large_buffers(kind)
        for group in (group for group in GROUPS if group.memory == kind):
            wanted = [name for name in group.names if not only or name.startswith(tuple(only))]
            if wanted:
                yield from (row for row in group.run(effort) if row.name in wanted)


def facts() -> dict[str, str]:
    """What the figures depend on; neither host name nor path."""
    flapack()  # so that its BLAS is listed too
    here = {name: importlib.metadata.version(name) for name in ("somactl", "numpy", "scipy")}
    blas = {
        f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')}".strip()
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    }
    return {
        "processor": _processor(),
        "cores": str(cores()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **here,
        "BLAS": ", ".join(sorted(blas)),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    widest = next((name for name in ("avx512f", "avx2", "avx") if name in flags.split()), "")
    return " ".join(filter(None, [named[0] if named else platform.machine(), widest]))


def _number(row: Row, value: float) -> str:
    return f"{value:,.{row.digits}f}{row.unit}"


def table(rows: Sequence[Row]) -> str:
    """A Markdown table, aligned so that it reads well in a terminal too."""
    head = [
        "measure",
        "goal",
        "figure",
        "met",
        "min-max",
        "threads",
        "reproduce with `benchmarks/run.py --only`",
    ]
    body = [
        [
            row.measure + (f" ({row.detail})" if row.detail else ""),
            ""
            if row.goal is None
            else {">=": "≥ ", "<=": "≤ ", "": ""}[row.sense] + f"{row.goal:g}{row.unit}",
            _number(row, row.figure),
            {True: "yes", False: "**no**", None: ""}[row.met],
            f"{_number(row, row.low)}-{_number(row, row.high)}",
            ", ".join(f"{name} {count}" for name, count in row.threads.items()),
            f"`{row.name}`",
        ]
        for row in rows
    ]
    widths = [max(len(line[column]) for line in [head, *body]) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *body]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def summary(rows: Sequence[Row]) -> str:
    missed = [row for row in rows if row.met is False]
    judged = [row for row in rows if row.met is not None]
    text = f"{len(judged) - len(missed)} of {len(judged)} goals met"
    return text + (f"; missed: {', '.join(row.name for row in missed)}" if missed else "")


def write_docs(rows: Sequence[Row], about: dict[str, str]) -> None:
    """Replaces what stands between the markers of docs/BENCHMARKS.md."""
    before, found, rest = DOCS.read_text().partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise SystemExit(f"{DOCS.name} lacks the lines '{BEGIN}' and '{END}'")
    machine = "; ".join(f"{name} {value}" for name, value in about.items())
    text = f"\n\nMeasured on: {machine}.\n\n{table(rows)}\n\n{summary(rows)}.\n\n"
    DOCS.write_text(before + BEGIN + text + END + after)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures somactl; one table of ratios.")
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write-docs", action="store_true")
    options = parser.parse_args()
    if options.list:
        print("\n".join(NAMES))
        return
    unknown = [only for only in options.only if not any(name.startswith(only) for name in NAMES)]
    if unknown:
        parser.error(f"no row begins with {unknown[0]!r}; --list names them all")
    if options.write_docs and (options.quick or options.only):
        parser.error("--write-docs wants the whole run, without --quick and --only")

    if os.getloadavg()[0] > BUSY:
        print("other work is running on this machine: the figures will be off", file=sys.stderr)
    start = time.monotonic()
    rows = []
    for row in measured(options.only, QUICK if options.quick else Effort()):
        rows.append(row)
        print(f"[{time.monotonic() - start:4.0f} s] {row.name}: {_number(row, row.figure)}", file=sys.stderr)
    rows.sort(key=lambda row: NAMES.index(row.name))
    about = facts()
    if any(row.name.startswith(tuple(peers.GOALS)) for row in rows):
        about |= {name: version for name, version in peers.versions().items() if name in peers.GOALS}
    if options.json:
        print(json.dumps(about))
        for row in rows:
            print(json.dumps(row.as_dict()))
    else:
        print("; ".join(f"{name} {value}" for name, value in about.items()), end="\n\n")
        print(table(rows), summary(rows), sep="\n\n")
    if options.write_docs:
        write_docs(rows, about)


if __name__ == "__main__":
    main()

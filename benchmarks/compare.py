"""Compare another checkout of somactl with this one: the same rows of `make bench`, run by turns.

    python benchmarks/compare.py OTHER                        # the rows of stores, migration and prune
    python benchmarks/compare.py OTHER --only redis --rounds 5

Each checkout runs its own benchmarks with its own .venv (`make .venv/installed` there), so a row's figure is
already a ratio against a peer in the same run. The table has the median of each side over the rounds, and the
ratio of the seconds that somactl itself took (this checkout over the other: below 1 is faster).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
ROWS = ("redis-", "postgres-", "hybrid-", "small-postgres", "small-redis", "prune-", "migrate")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path)
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    figures: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for number in range(asked.rounds):
        sides = [("other", asked.other), ("this", HERE)]
        for side, repo in sides if number % 2 == 0 else reversed(sides):
            for row in run(repo, asked.only or ROWS):
                figures[row["name"]][side].append(row)
            print(f"round {number + 1} of {asked.rounds}: {side} done", file=sys.stderr)
    print("| row | other | this | this / other | seconds, this / other |")
    print("|---|---|---|---|---|")
    for name, sides_of in figures.items():
        if len(sides_of) == 2:
            print(line(name, sides_of["other"], sides_of["this"]))


def run(repo: Path, only: Sequence[str]) -> list[dict[str, Any]]:
    """The rows whose name begins so, measured by the benchmarks of `repo`."""
    chosen = [word for name in only for word in ("--only", name)]
    command = [repo / ".venv/bin/python", repo / "benchmarks/run.py", "--json", *chosen]
    output = subprocess.run(command, cwd=repo, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(text) for text in output.splitlines()[1:]]


def line(name: str, other: Sequence[dict[str, Any]], this: Sequence[dict[str, Any]]) -> str:
    before, now = (statistics.median(row["figure"] for row in rows) for rows in (other, this))
    seconds = [statistics.median(_seconds(row) for row in rows) for rows in (other, this)]
    unit = this[0]["unit"]
    times = f"{seconds[1] / seconds[0]:.2f}" if all(seconds) else ""
    quotient = f"{now / before:.2f}" if before else ""
    return f"| `{name}` | {before:.3g}{unit} | {now:.3g}{unit} | {quotient} | {times} |"


def _seconds(row: dict[str, Any]) -> float:
    """What somactl took in one call; the first of a row's times is its own."""
    return float(next(iter(row["seconds"].values()), 0.0))


if __name__ == "__main__":
    main()

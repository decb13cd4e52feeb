"""Measure the code itself: its size, its longest parts, and how far one value travels through it.

    python benchmarks/house.py               # sizes
    python benchmarks/house.py --walks       # and the walks, which need redis-server
    python benchmarks/house.py --repo OTHER  # the same of another checkout

A code line holds a token that is neither comment nor docstring. A walk counts the files of somactl in which a
function was entered, the pairs of functions in different files of which one called the other, and the round
trips to the server over a connection that stands, the scripts being known there.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repo", type=Path, default=HERE)
    parser.add_argument("--walks", action="store_true")
    asked = parser.parse_args()
    for what, figure in [*sizes(asked.repo), *(walks(asked.repo) if asked.walks else ())]:
        print(f"{what:50} {figure}")


def sizes(repo: Path) -> Iterator[tuple[str, str]]:
    for folder in ("somactl", "tests"):
        sources = sorted((repo / folder).rglob("*.py"))
        counted = [python_lines(path.read_text(encoding="utf-8")) for path in sources]
        code, comments = (sum(part) for part in zip(*counted, strict=True))
        yield f"{folder}: lines of code", f"{code:,}"
        yield f"{folder}: comment lines in 100 of code", f"{100 * comments / code:.1f}"
    for folder, comment in (("lua", "--"), ("sql", "--")):
        lines = [line.strip() for path in (repo / folder).rglob(f"*.{folder}") for line in path.open()]
        yield (
            f"{folder}: lines of code",
            f"{sum(bool(line) and not line.startswith(comment) for line in lines):,}",
        )
    files = {path: len(path.read_text().splitlines()) for path in (repo / "somactl").rglob("*.py")}
    yield "lines a file: median / p90 / max", spread([size for size in files.values() if size])
    yield "files over 450 lines", " ".join(p.name for p, size in files.items() if size > 450) or "none"
    yield "lines a function: median / p90 / max", spread([n for path in files for n in functions(path)])


def python_lines(source: str) -> tuple[int, int]:
    """Lines of code, and lines of comment."""
    code: set[int] = set()
    comments = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments += 1
        elif token.type not in LAYOUT:
            code.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            code -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(code), comments


def functions(path: Path) -> Iterator[int]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1


def spread(values: Sequence[int]) -> str:
    ninetieth = statistics.quantiles(values, n=10)[-1]
    return f"{statistics.median(values):.0f} / {ninetieth:.0f} / {max(values)}"


COMMIT = ["commit", "a=rho.npy"]
PRUNE = ["prune", "--order-file", "order", "--keep", "0"]
# What a walk runs, after what prepares it; {redis} is a server of its own.
WALKS: dict[str, tuple[list[list[str]], list[str]]] = {
    "commit on Redis": ([["init"], ["commit", "b=rho.npy"]], ["commit", "a=rho.npy", "--quiet"]),
    "audit of one page on Redis": (
        [["init"], ["commit", "a=rho.npy"], ["commit", "b=rho.npy"]],
        ["verify-psd", "--all"],
    ),
    "one-key prune on Redis": (
        [["init"], COMMIT, PRUNE, COMMIT],
        PRUNE,
    ),
    "legacy value on Redis": ([["init"]], ["migrate-json", "old.json"]),
}

TRACED = """
import inspect, json, os, sys, threading
from somactl.cli.app import run
import somactl
from somactl.store.redis import pool
root = os.path.dirname(somactl.__file__)
files, edges, calls = set(), set(), []
converse = pool._converse
def counted(connection, commands):
    calls.extend([] if commands == [("PING",)] else [len(commands)])  # that one is the connecting
    return converse(connection, commands)
pool._converse = counted
def note(frame, event, argument):
    code = frame.f_code
    if event == "call" and code.co_flags & inspect.CO_OPTIMIZED and code.co_filename.startswith(root):
        files.add(code.co_filename)
        caller = frame.f_back
        if caller is not None and caller.f_code.co_filename.startswith(root):
            if caller.f_code.co_filename != code.co_filename:
                edges.add((caller.f_code, code))
threading.setprofile(note)
sys.setprofile(note)
code = run(sys.argv[1:])
sys.setprofile(None)
sys.stderr.write("\\nWALK " + json.dumps([code, len(files), len(edges), calls]))
"""


def walks(repo: Path) -> Iterator[tuple[str, str]]:
    sys.path.insert(0, str(repo / "tests"))
    from servers.redis import RedisServer

    with tempfile.TemporaryDirectory() as name, RedisServer(Path(name)) as server:
        folder = Path(name)
        prepare(folder)
        environ = {**os.environ, "PYTHONPATH": str(repo), "SOMACTL_STORE": server.url}
        for what, (before, words) in WALKS.items():
            with server.client() as client:
                client.flushall()
            for each in [*before, words]:
                done = subprocess.run(
                    [sys.executable, "-c", TRACED, *each],
                    cwd=folder,
                    env=environ,
                    capture_output=True,
                    text=True,
                )
                found = re.search(r"^WALK (.*)$", done.stderr, re.MULTILINE)
                assert found, done.stderr
            code, files, edges, calls = json.loads(found[1])
            assert code == 0, done.stderr
            yield f"{what}: files / edges / round trips", f"{files} / {edges} / {len(calls)}"


def prepare(folder: Path) -> None:
    import numpy as np

    rho = np.diag([0.5, 0.3, 0.2])
    np.save(folder / "rho.npy", rho)
    (folder / "old.json").write_text(json.dumps(rho.tolist()))
    (folder / "order").write_text("a\n")


if __name__ == "__main__":
    main()

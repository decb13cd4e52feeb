"""No test holds a time that was read when it was collected: hours may lie between that and its run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
FOLDERS = (TESTS, TESTS.parent / "somactl" / "testing")
CLOCKS = {"time", "time_ns", "monotonic", "perf_counter", "now", "utcnow", "clock", "commit_id_of_age"}


def called(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls made while the tree is evaluated: not those in the bodies of functions."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in (*child.decorator_list, child.args):
                yield from called(ast.Expr(part) if isinstance(part, ast.expr) else part)
        elif not isinstance(child, ast.Lambda):
            if isinstance(child, ast.Call):
                yield child
            yield from called(child)


def name_of(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def collected_times(source: str) -> list[int]:
    """Lines whose evaluation at collection reads a clock, by itself or in a function of the same module."""
    tree = ast.parse(source)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    clocks = CLOCKS | {
        each.name
        for each in functions
        if any(isinstance(node, ast.Call) and name_of(node) in CLOCKS for node in ast.walk(each))
    }
    return [call.lineno for call in called(tree) if name_of(call) in clocks]


def test_no_time_is_read_when_tests_are_collected() -> None:
    found = [
        f"{path.relative_to(TESTS.parent)}:{line}"
        for folder in FOLDERS
        for path in folder.rglob("*.py")
        for line in collected_times(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_the_search_finds_what_it_is_for() -> None:
    source = "def message():\n    return time.time()\n\n@parametrize('m', [message()])\ndef test(m): ..."
    assert collected_times(source) == [4]
    assert collected_times("def test():\n    now = time.time()") == []

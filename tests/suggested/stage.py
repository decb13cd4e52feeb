"""A folder, a store and a namespace with odd names, and a shell that runs lines as somactl printed them."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cli.conftest import Result, Shell, density

KEY = '-acme:(9.0, 14.0):it\'s $HOME=`x` "\u03c1"'
NAMESPACE = "-n.S_1"
SECRET = "hunter2-hunter2"
CODES: dict[str, set[int]] = {"config": {0, 10}, "doctor": {0, 3, 4, 10, 13}, "status": {0, 4, 15}}
"""What a suggested command may end with, where that is not 0 alone: it looks, and says what it found."""


@dataclass
class Fault:
    """A command line that ends in an error.

    env    what stands in the environment instead of flags; with a store there, none is named by flag
    mend   what the hint's sentence asks for, done before the suggested commands run
    codes  what suggested commands may end with, by command, beside the usual
    twice  whether the fault can be met a second time, in the other output mode
    """

    words: list[str]
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    mend: Callable[[], Any] = lambda: None
    codes: Mapping[str, set[int]] = field(default_factory=dict)
    twice: bool = True


Case = Callable[["Stage"], Iterator[Fault]]


class Stage(Shell):
    """`self(...)` runs somactl on the odd store; `line(...)` runs a line as it was printed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "it's a folder")
        self.folder.mkdir()
        self.env: dict[str, str] = {"SOMACTL_RETRY_SECONDS": "0"}

    @property
    def where(self) -> list[str]:
        """The flags that name store and namespace; the environment of a server store needs no flag."""
        store = [] if "SOMACTL_STORE" in self.env else ["--store", "sqlite:///my store.db"]
        return [*store, f"--namespace={NAMESPACE}"]

    def __call__(self, *words: str, env: Any = None, **options: Any) -> Result:
        return super().__call__(*self.where, *words, env={**self.env, **(env or {})}, **options)

    def on(self, store: str, cache: str = "") -> Stage:
        """This stage with a server store, named by the environment."""
        self.env |= {"SOMACTL_STORE": store, **({"SOMACTL_CACHE": cache} if cache else {})}
        return self

    def put(self, key: str = KEY, seed: int = 0, *words: str) -> Any:
        """Commit a matrix; the report."""
        file = self.save(f"{seed}.npy", density(4, seed=seed))
        return self.ok("-o", "json", "commit", *words, "--", f"{key}={file}").json

    def run(self, fault: Fault, mode: str) -> Result:
        return self("--output", mode, *fault.words, env=dict(fault.env), stdin=fault.stdin)

    def line(self, line: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a printed line, in the same folder and environment."""
        return super().line(line, {**self.env, **(env or {})})

    def execute(self, script: str) -> None:
        """Do something to the SQLite database that no command does."""
        with closing(sqlite3.connect(self.folder / "my store.db")) as connection:
            connection.executescript(script)

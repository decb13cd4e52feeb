"""The command line. `main` is the only place that exits; everything else returns a code.

Imports are deferred: `--version` pays for no parser, and no command pays for another's libraries.
"""

from __future__ import annotations

import gc
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Entry point of the console script."""
    argv = sys.argv[1:]
    if argv == ["--version"]:
        from somactl import __version__

        sys.stdout.write(f"somactl {__version__}\n")
        sys.exit(0)
    # Importing makes tens of thousands of objects that live to the end: looking for garbage among them
    # takes a twelfth of a short command and finds none.
    gc.set_threshold(50_000)
    if argv[:1] == ["--complete"]:  # a shell asks what could stand where its cursor is
        from somactl.cli.completion import complete

        sys.exit(complete(argv[1:]))
    from somactl.cli.app import run

    sys.exit(run(argv))

"""The command line. `main` is the only place that exits; everything else returns a code.

Imports are deferred: `--version` pays for no parser, and no command pays for another's libraries.
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from somactl.cli.signals import Stopped


def main() -> NoReturn:
    """Entry point of the console script."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until we can say more: without a traceback
    from somactl.cli import signals

    code: int | None = None
    try:
        signals.catch()
        from somactl.cli import text

        text.secure()
        code = _run(sys.argv[1:])
        signals.let_go(code)
    except signals.Stopped as stopped:
        signals.let_go(stopped.exit_code)
        code = _stopped(sys.argv[1:], stopped) if code is None else code
    sys.exit(code)


def _run(argv: Sequence[str]) -> int:
    if argv == ["--version"]:
        return _version()
    # Importing makes tens of thousands of objects that live to the end: looking for garbage among them
    # takes a twelfth of a short command and finds none.
    gc.set_threshold(50_000)
    if argv[:1] == ["--complete"]:  # a shell asks what could stand where its cursor is
        from somactl.cli.completion import complete

        sys.exit(complete(argv[1:]))
    from somactl.cli.app import run

    return run(argv)


def _version() -> int:
    from somactl import __version__
    from somactl.cli.text import takes_more

    sys.stdout.write(f"somactl {__version__}\n")
    if takes_more(sys.stdout):
        return 0
    from somactl.cli.output import Output

    return Output("table").close(0)


def _stopped(argv: Sequence[str], stopped: Stopped) -> int:
    """A signal that came before the command line was looked at, perhaps in the middle of an import."""
    _forget_half_imported()
    from somactl.cli.output import Output, output_mode

    return Output(output_mode(argv)).failure(stopped.error())


def _forget_half_imported() -> None:
    """Have packages whose import was broken off imported anew as a whole.

    Python forgets such a package, and keeps those of its modules that were complete. They would be found, and
    never become attributes of the new package, which may rely on that, as asyncio does.
    """
    for name in list(sys.modules):
        package = name.partition(".")[0]
        if package not in sys.modules:
            del sys.modules[name]

"""`hasty_serve.py SOMACTL serve ...`: the command with limits of time that a test can wait for."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from somactl.cli import serving
from somactl.serve.context import ServeOptions

TIMES = {"header_seconds": 3.0, "body_seconds": 3.0, "idle_seconds": 3.0, "write_seconds": 3.0}

_made = serving.serve_options


def hasty(*given: Any) -> ServeOptions:
    options = _made(*given)
    return dataclasses.replace(options, limits=dataclasses.replace(options.limits, **TIMES))


if __name__ == "__main__":
    serving.serve_options = hasty
    from somactl.cli import main

    del sys.argv[0]
    main()

"""Print each requirement of pyproject.toml at its lower bound, as a requirements file for pip.

The linters stay out: they judge the sources, which never run beside them. So does what needs newer
versions of our own requirements than we do: what it tests is tested with the newest versions alone.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

NEEDS_NEWER = ("schemathesis",)

project = tomllib.loads(Path(__file__).parent.parent.joinpath("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
requirements = [*project["dependencies"]]
for name in ("kafka", "serve", "cognitive", "distributed", "test"):
    requirements += extras[name]
for requirement in requirements:
    if requirement.startswith(("somactl[", *NEEDS_NEWER)):
        continue  # an extra that stands in the list itself
    match = re.fullmatch(r"([A-Za-z0-9-]+(?:\[[a-z,]+\])?)>=([0-9.]+)(?:,<[0-9.]+)?", requirement)
    if match is None:
        raise SystemExit(f"pyproject.toml: {requirement!r} is not written as name>=version[,<version]")
    print(f"{match[1]}=={match[2]}")

"""How the status page looks, and the policy that lets a browser use this style and nothing else."""

from __future__ import annotations

from importlib.resources import files

from somactl.report.page.style import BASE, policy

STYLE = BASE + files(__package__).joinpath("style.css").read_text(encoding="utf-8")
POLICY = f"{policy(STYLE)}; frame-ancestors 'none'"
"""The Content-Security-Policy: no script at all, no style but STYLE, no picture but the page's own."""

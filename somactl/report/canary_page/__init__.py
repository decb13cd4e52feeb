"""The report of a canary check as one HTML file: no script, no outside asset, in light and dark.

document(report)        # bytes: the verdict and its reason first, then how it came to that
"""

from __future__ import annotations

from somactl.report.canary_page.document import document

__all__ = ["document"]

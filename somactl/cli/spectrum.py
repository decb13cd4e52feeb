"""A spectrum as bars in the terminal."""

from __future__ import annotations

from somactl.core.verdict import Spectrum

WIDTH = 40
ROWS = 16
BLOCKS = " ▏▎▍▌▋▊▉█"


def draw(spectrum: Spectrum) -> list[str]:
    """The largest eigenvalues as bars, longest first; every negative one is named."""
    descending = spectrum.eigenvalues[::-1]
    top = max(descending[0], 0.0) or 1.0
    lines = [
        f"rank {spectrum.rank} of {len(descending)}, purity {spectrum.purity:.6f}, "
        f"entropy {spectrum.entropy:.6f} nats"
    ]
    lines += [f"{value:+.3e} {_bar(value / top)}" for value in descending[:ROWS]]
    rest = descending[ROWS:]
    if rest:
        lines.append(f"... {len(rest)} more, down to {rest[-1]:+.3e}, {sum(rest):.3e} in sum")
    return [line.rstrip() for line in lines]


def _bar(fraction: float) -> str:
    eighths = round(max(fraction, 0.0) * WIDTH * 8)
    return "█" * (eighths // 8) + BLOCKS[eighths % 8]

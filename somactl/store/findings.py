"""What `diagnose` finds, told alike by all stores."""

from __future__ import annotations

from somactl.store.model import DAY, Finding, Retention

SKEW_SECONDS = 2.0


def clock(service: str, there: float, began: float, ended: float) -> Finding:
    """The server's time, asked for between two times of this machine."""
    skew = max(began - there, there - ended, 0.0)
    if skew <= SKEW_SECONDS:
        return Finding(service, "clock", "ok", "the server's clock agrees with this machine's")
    return Finding(
        service,
        "clock",
        "problem",
        f"the server's clock is {skew:.1f} s {'behind' if there < began else 'ahead of'} this machine's",
        "synchronise both clocks: generated commit ids, and their expiry, rest on them",
    )


def retention(service: str, kept: Retention) -> Finding:
    times = f"{kept.seconds / DAY:g} days; records {kept.record_seconds / DAY:g} days"
    return Finding(service, "retention", "ok", f"{kept.versions} versions, {times}")

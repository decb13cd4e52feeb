"""What a report says of a finding that an operator has accepted, or had."""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["accepted", "expired", "changed", "other"]


class Acceptance(msgspec.Struct, frozen=True, kw_only=True):
    """The entry of `--accept FILE` for a finding's key, and whether it holds.

    state: `accepted`; or the finding is one again, because the entry is `expired`, because the value has
    `changed` since it was judged (digest is that of the value which was), or because the entry accepts one
    `other` outcome alone. until is the day or time as the file has it, expires the moment in seconds since
    1970 from which it holds no longer.
    """

    state: State
    owner: str
    reason: str
    until: str
    expires: float
    digest: str
    outcome: str | None = None

    @property
    def holds(self) -> bool:
        return self.state == "accepted"

    def told(self) -> str:
        """`accepted until 2026-10-01 by ana@example.org, expired: known since May`."""
        again = {
            "accepted": "",
            "expired": ", expired",
            "changed": f", but the value has changed since (it was {self.digest})",
            "other": f", but as {self.outcome} only",
        }[self.state]
        return f"accepted until {self.until} by {self.owner}{again}: {self.reason}"

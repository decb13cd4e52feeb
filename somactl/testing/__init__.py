"""The contract suite, shipped for authors of stores. `docs/STORES.md` shows how to use it.

Needs pytest, pytest-asyncio and hypothesis, which somactl itself does not.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f"somactl.testing.{name}"
        for name in (
            "arguments",
            "commits",
            "concurrency",
            "corruption",
            "events",
            "grace",
            "identity",
            "namespaces",
            "notes",
            "reads",
            "retention",
            "state_machine",
            "values",
        )
    )
)

from somactl.testing.backend import Backend  # noqa: E402
from somactl.testing.suite import ReadContract, StoreContract  # noqa: E402

__all__ = ["Backend", "ReadContract", "StoreContract"]

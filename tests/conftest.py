"""What every test stands on: a clean environment and reproducible examples."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "somactl", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("somactl")

# No test, and no somactl that a test starts, sees a setting of the machine it runs on.
_STRANGERS = ("SOMACTL_", "SFM_", "POSTGRES_URL", "REDIS_URL", "NO_COLOR", "FORCE_COLOR", "PYTHONWARNINGS")
for _name in [name for name in os.environ if name.startswith(_STRANGERS)]:
    del os.environ[_name]

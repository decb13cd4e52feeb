"""The hybrid store: an authority that commits first, and a cache before it. See `docs/STORE_HYBRID.md`."""

from somactl.store.hybrid.store import HybridStore

__all__ = ["HybridStore"]

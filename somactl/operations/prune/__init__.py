"""Delete what the control plane ordered, in its order, recoverably. `prune` is the one door to it."""

from somactl.operations.prune.operation import prune
from somactl.operations.prune.request import PruneRequest

__all__ = ["PruneRequest", "prune"]

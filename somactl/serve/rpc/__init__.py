"""The gRPC face of `somactl serve`: health, the state in detail, prune orders, reflection. See docs/GRPC.md.

Importing it imports grpc, which `somactl serve` alone does.
"""

from somactl.serve.rpc.server import GrpcFace, serve

__all__ = ["GrpcFace", "serve"]

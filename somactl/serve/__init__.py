"""`somactl serve`: what is true of the watched namespaces, told over HTTP and gRPC."""

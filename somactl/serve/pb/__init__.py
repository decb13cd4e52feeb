"""Stubs of `schemas/somactl/v1/*.proto`, written by `make protos`; nothing in here is edited by hand."""

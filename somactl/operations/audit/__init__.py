"""Audits: prove the invariants of every matrix, as fast and as gently as the store allows.

model      what to check and how, a task of keys, and what was proven of it
pages      reads the namespace's index in key order and cuts what is to be proven into tasks
prove      proves the matrices of a task, of a file, of a cache
workers    where tasks are proven: in this process, in others beside it, on the machines of a Dask cluster
ledger     which ranges of keys were proven up to which version, and read when (`ranges`: the arithmetic)
known_bad  the keys whose last check found something
memory     both of them as notes, moved by compare-and-set
run        one audit from its lease to its report

A bad or unreadable matrix never ends an audit; what could not be checked is counted apart.
"""

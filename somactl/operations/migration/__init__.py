"""Bring the old service's JSON values into a store: plan, copy, finalize, revert, forget.

    examine.py   one value: which matrices it holds, and the envelopes they become
    copying.py   all values, batch by batch: a dry run, a copy, or exactly what a plan says
    plan.py      the plan as a file
    journal.py   what a migration remembers in the store: where it is, and each row
    finalize.py  remove from the source what is safe in the store, and keep the original bytes
    revert.py    undo all of it; forget the originals
    pace.py      no faster than is allowed, and no longer
    tally.py     rows folded into a report

`docs/MIGRATION.md` says it for operators.
"""

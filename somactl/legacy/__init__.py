"""Bring the old service's JSON values into a store: plan, copy, finalize, revert, forget.

    source/       the old service's values: a table, a Redis, files, lines
    values.py     where matrices stand in a value; kinds.py: what each is stored as; json_edit.py: references
    examine.py    one value: its rows, and the envelopes they become
    request.py    what is asked for, on the wire too, and what one run works with
    batches.py    all values, read and examined ahead of what uses them
    journal.py    what a migration remembers in the store: where it is, and each row
    target.py     what stands under a matrix's target already, and whose it is
    plan.py       the plan as a file, and whether it still fits
    copying.py    a dry run, a copy, or exactly what a plan says
    finalize.py   remove from the source what is safe in the store, and keep the original bytes
    independent_parser.py  what finalizing compares with
    revert.py     undo all of it; forget the originals
    tally.py      what was done, folded into a report

Nothing but `cli` and `runtime` imports this package, so that it can be deleted on the day when no old values
are left. `docs/MIGRATION.md` says it for operators.
"""

"""Bring the old service's JSON values into a store: plan, copy, finalize, revert, forget.

    examine.py    one value: which matrices it holds, and the envelopes they become
    batches.py    all values, read and examined ahead of their use; pace.py: how fast
    target.py     where a matrix goes, and what stands there already
    context.py    what is asked for, and what one run works on
    copying.py    a dry run, a copy, or exactly what a plan says
    resuming.py   where a run that was stopped goes on
    plan.py       the plan as a file; staleness.py: whether it still fits
    journal.py    what a migration remembers in the store: where it is, and each row
    ownership.py  which commits of the store are a migration's own
    finalize.py   remove from the source what is safe in the store, and keep the original bytes
    safety.py     whether it is safe there, and made its own
    independent_parser.py  what finalize compares with
    revert.py     undo all of it; forget the originals
    leaving.py    what finalizing and reverting tell alike
    tally.py      rows folded into a report
    one.py        one value, from Python

`docs/MIGRATION.md` says it for operators.
"""

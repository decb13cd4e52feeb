"""The kernel of resumable jobs: what migration and prune share, and what an audit, a canary and a relay need.

checkpoint   where a job is: one note of the store, moved by compare-and-set alone
wire         the written form of what a job was asked for, and the identity made of it
pace         a rate, a pause file, a deadline
progress     how far a job is, for a person who waits
pipeline     reader -> bounded queue -> workers -> collector, and how it ends
registry     what generic commands (`status`, `restore --commit`, `compact`) ask of every kind of job

Nothing here knows a job by name.
"""

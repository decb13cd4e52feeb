-- Schema 2. A released file is frozen: a change is a new file with the next number.

-- Until when a deleted key can be restored, where the commit that deleted it said so; without a row the
-- retention says it. `id` is the tombstone's revision. A row stands for as long as its key stays deleted.
CREATE TABLE grace (
    id         INTEGER PRIMARY KEY REFERENCES revision (id) ON DELETE CASCADE,
    namespace  INTEGER NOT NULL REFERENCES namespace (id),
    expires_at REAL NOT NULL
);
CREATE INDEX grace_age ON grace (namespace, expires_at);

-- What operations remember beside the matrices. The data stand last, so that a listing never reads as far.
CREATE TABLE note (
    namespace  INTEGER NOT NULL REFERENCES namespace (id),
    name       TEXT NOT NULL,
    version    INTEGER NOT NULL,
    size       INTEGER NOT NULL,
    written_at REAL NOT NULL,
    data       BLOB NOT NULL,
    PRIMARY KEY (namespace, name)
);

-- Schema 1. A released file is frozen: a change is a new file with the next number.
-- Times are seconds since 1970 by the clock of the machine that wrote them; digests are hex.

PRAGMA application_id = 1936682337;  -- "soma", so that file(1) and people can tell whose database this is

-- One row per applied file. The row of the highest version says which somactl may read and write.
CREATE TABLE somactl_schema (
    version      INTEGER PRIMARY KEY,
    least_reader INTEGER NOT NULL,
    least_writer INTEGER NOT NULL,
    applied_at   REAL NOT NULL
);

CREATE TABLE namespace (
    id                    INTEGER PRIMARY KEY,
    name                  TEXT NOT NULL UNIQUE,
    incarnation           TEXT NOT NULL,
    version               INTEGER NOT NULL,
    created_at            REAL NOT NULL,
    keep_versions         INTEGER NOT NULL,
    keep_seconds          REAL NOT NULL,
    keep_record_seconds   REAL NOT NULL,
    -- Below this version entries of the history are gone: "no entry" no longer means "was absent".
    floor                 INTEGER NOT NULL DEFAULT 0,
    -- Commit records up to this time are gone: a generated id from before it can no longer be replayed.
    records_removed_until REAL NOT NULL DEFAULT 0,
    -- Events up to this version were published; null where publishing was never turned on.
    published             INTEGER,
    -- How many unpublished events outlive their time; null where publishing is off.
    keep_events           INTEGER,
    -- How many were dropped unpublished since publishing was turned on.
    dropped_events        INTEGER NOT NULL DEFAULT 0,
    -- Commit records up to this version may go when their time is over; later ones are events that wait.
    removable_until       INTEGER AS (
        CASE WHEN keep_events IS NULL THEN version ELSE max(published, version - keep_events) END)
);

-- What happened to one key in one version; a tombstone has no content. The verdict stands last, so that
-- a listing never reads as far as it.
CREATE TABLE revision (
    id                 INTEGER PRIMARY KEY,
    namespace          INTEGER NOT NULL REFERENCES namespace (id),
    key                TEXT NOT NULL,
    version            INTEGER NOT NULL,
    commit_id          TEXT NOT NULL,
    committed_at       REAL NOT NULL,
    superseded_version INTEGER,
    superseded_at      REAL,
    compacted          INTEGER NOT NULL DEFAULT 0,
    size               INTEGER NOT NULL DEFAULT 0,
    content            TEXT,
    envelope           TEXT,
    kind               TEXT,
    dtype              TEXT,
    shape              TEXT,
    layout             TEXT,
    verdict            TEXT
);
CREATE UNIQUE INDEX revision_key ON revision (namespace, key, version);
CREATE UNIQUE INDEX revision_live ON revision (namespace, key)
    WHERE superseded_version IS NULL AND content IS NOT NULL;
CREATE UNIQUE INDEX revision_tombstone ON revision (namespace, key)
    WHERE superseded_version IS NULL AND content IS NULL;
CREATE INDEX revision_superseded ON revision (namespace, superseded_at)
    WHERE superseded_version IS NOT NULL;

-- The envelopes, apart from everything that a listing reads. `id` is the revision's.
CREATE TABLE payload (
    id   INTEGER PRIMARY KEY REFERENCES revision (id) ON DELETE CASCADE,
    data BLOB NOT NULL
);

-- What became of a commit id, and thereby the event of each version. `version` and `request` are null where the
-- id was claimed as aborted.
-- `id_time` is the moment inside a generated (UUIDv7) id, null for any other id.
CREATE TABLE commit_record (
    namespace   INTEGER NOT NULL REFERENCES namespace (id),
    commit_id   TEXT NOT NULL,
    version     INTEGER,
    request     TEXT,
    recorded_at REAL NOT NULL,
    id_time     REAL,
    detail      TEXT,
    PRIMARY KEY (namespace, commit_id)
);
CREATE UNIQUE INDEX commit_record_version ON commit_record (namespace, version) WHERE version IS NOT NULL;
CREATE INDEX commit_record_age ON commit_record (namespace, recorded_at);

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

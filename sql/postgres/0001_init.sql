-- Schema 1. A released file is frozen: a change is a new file with the next number, and a function that
-- changes gets a new name there, so that two neighbouring releases run side by side.
-- least_reader: 1
-- least_writer: 1
--
-- Times are seconds since 1970 by the server's clock; digests are hex. Names are always qualified: behind a
-- connection pooler a search_path cannot be relied on. There are no foreign keys: each would lock a row for
-- every row that a commit writes, and rows here are written by one function and removed by `compact` alone.

CREATE SCHEMA somactl;

-- One row per applied file. The row of the highest version says which somactl may read and write.
CREATE TABLE somactl.somactl_schema (
    version      integer PRIMARY KEY,
    least_reader integer NOT NULL,
    least_writer integer NOT NULL,
    applied_at   double precision NOT NULL
);

-- The row that every commit of the namespace locks. Half-empty pages let it be updated in place.
CREATE TABLE somactl.namespace (
    id                    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name                  text COLLATE "C" NOT NULL UNIQUE,
    incarnation           text NOT NULL,
    version               bigint NOT NULL,
    created_at            double precision NOT NULL,
    keep_versions         integer NOT NULL,
    keep_seconds          double precision NOT NULL,
    keep_record_seconds   double precision NOT NULL,
    -- Below this version entries of the history are gone: "no entry" no longer means "was absent".
    floor                 bigint NOT NULL DEFAULT 0,
    -- Commit records up to this time are gone: a generated id from before it can no longer be replayed.
    records_removed_until double precision NOT NULL DEFAULT 0,
    -- Events up to this version were published; null where publishing was never turned on.
    published             bigint,
    -- How many unpublished events outlive their time; null where publishing is off.
    keep_events           bigint,
    -- How many were dropped unpublished since publishing was turned on.
    dropped_events        bigint NOT NULL DEFAULT 0,
    -- Commit records up to this version may go when their time is over; later ones are events that wait.
    removable_until       bigint NOT NULL GENERATED ALWAYS AS (
        CASE WHEN keep_events IS NULL THEN version ELSE greatest(published, version - keep_events) END) STORED
) WITH (fillfactor = 50);

CREATE SEQUENCE somactl.revision_id;

-- The envelopes, apart from everything that a listing reads, and written before the revision whose id they
-- share. EXTERNAL: they are compressed already or do not compress, and lz4 made reads 2.6 times slower.
CREATE TABLE somactl.payload (
    id   bigint PRIMARY KEY DEFAULT nextval('somactl.revision_id'),
    data bytea NOT NULL
);
ALTER TABLE somactl.payload ALTER COLUMN data SET STORAGE EXTERNAL;

-- What happened to one key in one version; a tombstone has no content.
CREATE TABLE somactl.revision (
    id                 bigint PRIMARY KEY,
    namespace          integer NOT NULL,
    key                text COLLATE "C" NOT NULL,
    version            bigint NOT NULL,
    commit_id          text NOT NULL,
    committed_at       double precision NOT NULL,
    superseded_version bigint,
    superseded_at      double precision,
    compacted          boolean NOT NULL DEFAULT false,
    size               bigint NOT NULL DEFAULT 0,
    content            text,
    envelope           text,
    kind               text,
    dtype              text,
    shape              text,
    layout             text,
    verdict            text,
    -- Until when a delete can be undone, where that is not what the retention says.
    expires_at         double precision
);
CREATE UNIQUE INDEX revision_key ON somactl.revision (namespace, key, version);
CREATE UNIQUE INDEX revision_live ON somactl.revision (namespace, key)
    WHERE superseded_version IS NULL AND content IS NOT NULL;
CREATE UNIQUE INDEX revision_tombstone ON somactl.revision (namespace, key)
    WHERE superseded_version IS NULL AND content IS NULL;
CREATE INDEX revision_superseded ON somactl.revision (namespace, superseded_at)
    WHERE superseded_version IS NOT NULL;
CREATE INDEX revision_expiring ON somactl.revision (namespace, expires_at, id)
    WHERE superseded_version IS NULL AND expires_at IS NOT NULL;

-- What became of a commit id, and thereby the event of each version. Only `recorded_at` and `id_time` say
-- something where the id was claimed as aborted. `id_time` is the moment inside a generated (UUIDv7) id, null for
-- any other id. `contents` and `metadata` are JSON, kept as text to come back as they were written.
CREATE TABLE somactl.commit_record (
    namespace   integer NOT NULL,
    commit_id   text COLLATE "C" NOT NULL,
    version     bigint,
    incarnation text,
    request     text,
    recorded_at double precision NOT NULL,
    id_time     double precision,
    durability  text,
    noops       text[],
    contents    text,
    metadata    text,
    PRIMARY KEY (namespace, commit_id)
);
CREATE UNIQUE INDEX commit_record_version ON somactl.commit_record (namespace, version)
    WHERE version IS NOT NULL;
-- What is always true keeps the planner of a table it knows nothing of yet from looking up an id here.
CREATE INDEX commit_record_age ON somactl.commit_record (namespace, recorded_at) WHERE recorded_at IS NOT NULL;

-- What operations remember beside the matrices: checkpoints, orders, journals. A write is one row; writers of
-- one namespace take turns by an advisory lock.
CREATE TABLE somactl.note (
    namespace  integer NOT NULL,
    name       text COLLATE "C" NOT NULL,
    version    bigint NOT NULL,
    written_at double precision NOT NULL,
    data       bytea NOT NULL,
    PRIMARY KEY (namespace, name)
);
ALTER TABLE somactl.note ALTER COLUMN data SET STORAGE EXTERNAL;

-- Write one commit, all of it: payloads, then the lock of the namespace, then all that depends on it.
--
-- somactl decides about a commit in Python, and tells so by `decided`: it holds the lock already and has
-- looked. Without that the function only writes where there is nothing to decide: the id is new and not too
-- old, and each key lives at the version that `expected` names (0: nowhere). Otherwise it leaves nothing
-- behind, returns nulls, and somactl looks for itself.
--
-- What is deleted stands apart, in `gone`, and is written by statements over all of it, the faster the closer its
-- order is to that of the indexes. `grace` is for how many seconds these deletes can be undone, whatever the
-- retention says (null: what the retention says). The other arrays run alongside `keys`. The payloads stand in a
-- row in `data`; or, where `payloads` are given, they are there already, in the rows of these ids.
--
-- A function, because the server keeps its plans: planning these statements each time takes longer than
-- running them, and prepared statements do not survive a connection pooler. Plans are made once and for any
-- arguments, perhaps while the tables are empty, so they must not count on that. And it goes key by key: for
-- a few keys, which most commits have, that is a quarter faster than statements over arrays.
CREATE FUNCTION somactl.write_commit(
    namespace_name text,
    new_id text,
    new_id_time double precision,
    new_request text,
    new_contents text,
    new_metadata text,
    grace double precision,
    decided boolean,
    patience text,
    gone text[],
    gone_expected text[],
    keys text[],
    expected text[],
    payloads text[],
    sizes text[],
    contents text[],
    envelopes text[],
    kinds text[],
    dtypes text[],
    shapes text[],
    layouts text[],
    verdicts text[],
    data bytea,
    OUT version bigint,
    OUT committed_at double precision,
    OUT incarnation text,
    OUT durability text,
    OUT noops text[]
)
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $function$
DECLARE
    here    somactl.namespace;
    old     record;
    olds    bigint[];
    hidden  bigint[];
    ids     bigint[] := payloads;
    lengths integer[] := sizes;
    wanted  bigint[] := expected;
    start   integer := 1;
    doubt   boolean := false;
    at      double precision;
BEGIN
    IF payloads IS NULL THEN
        FOR i IN 1 .. cardinality(keys) LOOP
            ids[i] := nextval('somactl.revision_id');
            INSERT INTO somactl.payload (id, data)
            VALUES (ids[i], substring(data FROM start FOR lengths[i]));
            start := start + lengths[i];
        END LOOP;
    END IF;

    -- Who takes the next version holds the namespace's lock until the transaction ends.
    patience := set_config('lock_timeout', patience, true);
    UPDATE somactl.namespace AS n SET version = n.version + 1 WHERE n.name = namespace_name
    RETURNING n.* INTO here;
    at := extract(epoch FROM clock_timestamp());

    noops := '{}';
    IF cardinality(gone) > 0 THEN
        -- One look for each key, whatever the planner thinks of the table: to read what is live once and compare
        -- it with the keys is right for a few of them, and took half a minute for ten thousand.
        SELECT
            array_agg(r.id ORDER BY w.number), coalesce(array_agg(w.key) FILTER (WHERE r.id IS NULL), '{}'),
            coalesce(bool_or(coalesce(r.version, 0) <> w.version), false)
        INTO hidden, noops, doubt
        FROM unnest(gone, gone_expected::bigint[]) WITH ORDINALITY AS w (key, version, number)
        LEFT JOIN LATERAL (
            SELECT one.id, one.version FROM somactl.revision AS one
            WHERE one.namespace = here.id AND one.key = w.key
                AND one.superseded_version IS NULL AND one.content IS NOT NULL
            LIMIT 1
        ) AS r ON true;
    END IF;
    FOR i IN 1 .. cardinality(keys) LOOP
        SELECT r.id, CASE WHEN r.content IS NULL THEN 0 ELSE r.version END AS live INTO old
        FROM somactl.revision AS r
        WHERE r.namespace = here.id AND r.key = keys[i]
        ORDER BY r.version DESC LIMIT 1;
        doubt := doubt OR coalesce(coalesce(old.live, 0) <> wanted[i], false);
        olds[i] := old.id;
    END LOOP;

    IF NOT decided THEN
        PERFORM FROM somactl.commit_record AS c WHERE c.namespace = here.id AND c.commit_id = new_id;
        IF FOUND OR doubt OR here.id IS NULL
            OR coalesce(new_id_time <= greatest(at - here.keep_record_seconds, here.records_removed_until), false)
        THEN
            DELETE FROM somactl.payload AS p WHERE p.id = ANY (ids);
            UPDATE somactl.namespace AS n SET version = n.version - 1 WHERE n.id = here.id;
            noops := NULL;
            RETURN;
        END IF;
    END IF;

    IF cardinality(gone) > cardinality(noops) THEN
        UPDATE somactl.revision AS r SET superseded_version = here.version, superseded_at = at
        WHERE r.id = ANY (hidden);
        INSERT INTO somactl.revision (id, namespace, key, version, commit_id, committed_at, expires_at)
        SELECT nextval('somactl.revision_id'), here.id, w.key, here.version, new_id, at, at + grace
        FROM unnest(gone, hidden) AS w (key, id) WHERE w.id IS NOT NULL;
    END IF;
    UPDATE somactl.revision AS r SET superseded_version = here.version, superseded_at = at
    WHERE r.id = ANY (olds);
    FOR i IN 1 .. cardinality(keys) LOOP
        INSERT INTO somactl.revision (
            id, namespace, key, version, commit_id, committed_at,
            size, content, envelope, kind, dtype, shape, layout, verdict)
        VALUES (
            ids[i], here.id, keys[i], here.version, new_id, at,
            lengths[i], contents[i], envelopes[i], kinds[i], dtypes[i], shapes[i], layouts[i], verdicts[i]);
    END LOOP;

    durability := CASE
        WHEN current_setting('fsync') = 'on' AND current_setting('synchronous_commit') <> 'off' THEN 'fsync'
        ELSE 'memory' END;
    INSERT INTO somactl.commit_record (
        namespace, commit_id, version, incarnation, request, recorded_at, id_time, durability, noops,
        contents, metadata)
    VALUES (
        here.id, new_id, here.version, here.incarnation, new_request, at, new_id_time, durability, noops,
        new_contents, new_metadata);
    version := here.version;
    committed_at := at;
    incarnation := here.incarnation;
END
$function$;

-- Write notes, all or none: each note that `guards` names must be at the version beside it (0: not there).
-- Otherwise nothing is written, and `there` says where each of them is. The arrays `sizes` and `versions` run
-- alongside `names`; a note without a size is deleted, and is then at version 0. The data stand in a row.
CREATE FUNCTION somactl.write_notes(
    namespace_name text,
    patience text,
    names text[],
    sizes text[],
    data bytea,
    guards text[],
    expected text[],
    OUT versions text[],
    OUT there text[]
)
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $function$
DECLARE
    here    integer;
    lengths integer[] := sizes;
    start   integer := 1;
    counted bigint;
    at      double precision;
BEGIN
    SELECT n.id INTO here FROM somactl.namespace AS n WHERE n.name = namespace_name;
    IF here IS NULL THEN
        RETURN;
    END IF;
    patience := set_config('lock_timeout', patience, true);
    PERFORM pg_advisory_xact_lock(1852798053, here);  -- "note"

    SELECT coalesce(array_agg(coalesce(note.version, 0)::text ORDER BY wanted.number), '{}') INTO there
    FROM unnest(guards) WITH ORDINALITY AS wanted (name, number)
    LEFT JOIN LATERAL (
        SELECT one.version FROM somactl.note AS one WHERE one.namespace = here AND one.name = wanted.name LIMIT 1
    ) AS note ON true;
    IF there <> expected THEN
        RETURN;
    END IF;

    at := extract(epoch FROM clock_timestamp());
    versions := array_fill('0'::text, ARRAY[cardinality(names)]);
    FOR i IN 1 .. cardinality(names) LOOP
        IF lengths[i] IS NULL THEN
            DELETE FROM somactl.note WHERE note.namespace = here AND note.name = names[i];
        ELSE
            INSERT INTO somactl.note AS written (namespace, name, version, written_at, data)
            VALUES (
                here, names[i], 1, at,
                CASE WHEN lengths[i] = octet_length(data) THEN data
                ELSE substring(data FROM start FOR lengths[i]) END)
            ON CONFLICT ON CONSTRAINT note_pkey DO UPDATE
            SET version = written.version + 1, written_at = EXCLUDED.written_at, data = EXCLUDED.data
            RETURNING written.version INTO counted;
            versions[i] := counted;
            start := start + lengths[i];
        END IF;
    END LOOP;
END
$function$;

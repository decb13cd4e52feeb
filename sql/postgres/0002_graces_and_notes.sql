-- Schema 2: tombstones with a deadline of their own, notes, and commits that delete many keys at once.
-- The release before reads and writes it: it finds its own function, names every column that it reads, and
-- leaves the new ones empty. What it must not do is removed from its reach: see `keep_graced_v1`.
-- least_reader: 1
-- least_writer: 1

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

-- Write notes, all or none: each note that `guards` names must be at the version beside it (0: not there).
-- Otherwise nothing is written, and `there` says where each of them is. The arrays `sizes` and `versions` run
-- alongside `names`; a note without a size is deleted, and is then at version 0. The data stand in a row.
CREATE FUNCTION somactl.write_notes_v1(
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

-- Write one commit, as `commit_v1` does, with three differences. What is deleted stands apart, in `gone`, and is
-- written by statements over all of it, the faster the closer its order is to that of the indexes. `grace` is for
-- how many seconds these deletes can be undone, whatever the retention says (null: what the retention says). And
-- `new_extras` are kept beside the metadata, where the release before does not read.
CREATE FUNCTION somactl.commit_v2(
    namespace_name text,
    new_id text,
    new_id_time double precision,
    new_request text,
    new_contents text,
    new_metadata text,
    new_extras text,
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
        contents, metadata, extras)
    VALUES (
        here.id, new_id, here.version, here.incarnation, new_request, at, new_id_time, durability, noops,
        new_contents, new_metadata, new_extras);
    INSERT INTO somactl.outbox (namespace, incarnation, version, commit_id, keys, recorded_at)
    VALUES (namespace_name, here.incarnation, here.version, new_id, new_contents, at);
    version := here.version;
    committed_at := at;
    incarnation := here.incarnation;
END
$function$;

-- The release before knows no grace, and its `compact` would remove a value by the retention's time alone. It
-- fails instead, and so does anybody who deletes by hand: no bytes go before the deadline that was promised.
CREATE FUNCTION somactl.keep_graced_v1() RETURNS trigger
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $function$
DECLARE
    hidden record;
BEGIN
    SELECT r.namespace, r.key, r.superseded_version INTO hidden FROM somactl.revision AS r WHERE r.id = OLD.id;
    PERFORM FROM somactl.revision AS t
    WHERE t.namespace = hidden.namespace AND t.key = hidden.key AND t.version = hidden.superseded_version
        AND t.superseded_version IS NULL AND t.expires_at > extract(epoch FROM clock_timestamp());
    IF FOUND THEN
        RAISE EXCEPTION 'a deleted value is kept by a grace that this somactl does not know' USING ERRCODE = '42000';
    END IF;
    RETURN NULL;
END
$function$;
CREATE TRIGGER keep_graced AFTER DELETE ON somactl.payload
    FOR EACH ROW EXECUTE FUNCTION somactl.keep_graced_v1();

-- What of a commit's metadata came later: JSON kept as text, null where there is none of it.
ALTER TABLE somactl.commit_record ADD COLUMN extras text;

-- Last, since nobody reads until it is done: the table is looked through once, for an index that is empty yet.
-- Until when a delete can be undone, where that is not what the retention says.
ALTER TABLE somactl.revision ADD COLUMN expires_at double precision;
CREATE INDEX revision_expiring ON somactl.revision (namespace, expires_at, id)
    WHERE superseded_version IS NULL AND expires_at IS NOT NULL;

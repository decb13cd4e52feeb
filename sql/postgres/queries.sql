-- The statements of the PostgreSQL store, each below its name. Comments name the parameters. Arrays are text[]
-- and cast here: it is the only array that asyncpg knows without asking the server for its types.

-- name: newest_schema
SELECT version, least_reader, least_writer FROM somactl.somactl_schema ORDER BY version DESC LIMIT 1;

-- Asked of the tables themselves: what to_regclass() answers comes from a cache, which inside a transaction may
-- be older than another's commit that we have waited for.
-- name: has_schema
SELECT
    count(*) > 0 AS is_named, coalesce(bool_or(c.oid IS NOT NULL), false) AS is_ours, pg_backend_pid() AS backend,
    extract(epoch FROM clock_timestamp())::double precision AS now
FROM pg_catalog.pg_namespace AS n
LEFT JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = 'somactl_schema'
WHERE n.nspname = 'somactl';

-- name: server
SELECT current_setting('server_version_num')::integer AS version, current_setting('server_encoding') AS encoding;

-- Of the standbys nothing is told here but their number, which every role may see.
-- name: diagnosis
SELECT
    current_setting('server_version_num')::integer AS version,
    current_setting('server_encoding') AS encoding,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes,
    current_setting('synchronous_standby_names') AS synchronous_standby_names,
    current_setting('default_transaction_read_only') AS read_only,
    pg_is_in_recovery() AS in_recovery,
    (SELECT count(*) FROM pg_stat_replication) AS standbys,
    extract(epoch FROM clock_timestamp())::double precision AS now;

-- A database of schema 1 has no notes.
-- name: rights
SELECT
    has_table_privilege('somactl.namespace', 'SELECT') AND has_table_privilege('somactl.revision', 'SELECT')
        AND has_table_privilege('somactl.payload', 'SELECT')
        AND has_table_privilege('somactl.commit_record', 'SELECT')
        AND coalesce(has_table_privilege(to_regclass('somactl.note'), 'SELECT'), true) AS read,
    has_table_privilege('somactl.namespace', 'UPDATE') AND has_table_privilege('somactl.revision', 'INSERT')
        AND has_table_privilege('somactl.revision', 'UPDATE') AND has_table_privilege('somactl.payload', 'INSERT')
        AND has_table_privilege('somactl.payload', 'DELETE')
        AND has_table_privilege('somactl.commit_record', 'INSERT')
        AND has_sequence_privilege('somactl.revision_id', 'USAGE')
        AND coalesce(has_table_privilege(to_regclass('somactl.note'), 'INSERT'), true)
        AND coalesce(has_table_privilege(to_regclass('somactl.note'), 'UPDATE'), true)
        AND coalesce(has_table_privilege(to_regclass('somactl.note'), 'DELETE'), true) AS write,
    has_table_privilege('somactl.revision', 'DELETE')
        AND has_table_privilege('somactl.commit_record', 'DELETE') AS compact;

-- name: broken_indexes
SELECT c.relname AS name FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'somactl' AND NOT (i.indisvalid AND i.indisready AND i.indislive)
ORDER BY c.relname;

-- $1 the process that waits
-- name: blockers
SELECT a.pid, a.application_name AS name, a.state,
    extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, a.state_change))::double precision AS seconds
FROM pg_stat_activity a WHERE a.pid = ANY (pg_blocking_pids($1));

-- $1 the lock
-- name: lock_schema
SELECT pg_advisory_xact_lock($1);

-- $1 version, $2 least reader, $3 least writer
-- name: record_schema
INSERT INTO somactl.somactl_schema (version, least_reader, least_writer, applied_at)
VALUES ($1, $2, $3, extract(epoch FROM clock_timestamp()));

-- name: durability
SELECT CASE
    WHEN current_setting('fsync') = 'on' AND current_setting('synchronous_commit') <> 'off' THEN 'fsync'
    ELSE 'memory' END;

-- $1 namespace
-- name: namespace
SELECT
    id, name, incarnation, version, created_at, keep_versions, keep_seconds, keep_record_seconds, floor,
    records_removed_until, extract(epoch FROM clock_timestamp())::double precision AS now
FROM somactl.namespace WHERE name = $1;

-- The lock of all writes, and how long its holder may be silent. $1 namespace, $2 milliseconds
-- name: lock_namespace
SELECT id, set_config('idle_in_transaction_session_timeout', $2, true)
FROM somactl.namespace WHERE name = $1 FOR NO KEY UPDATE;

-- $1 namespace
-- name: retained
SELECT
    id, keep_versions, keep_seconds, keep_record_seconds, removable_until, published, keep_events,
    extract(epoch FROM clock_timestamp())::double precision AS now
FROM somactl.namespace WHERE name = $1;

-- $1 namespace, $2 incarnation, $3 versions, $4 seconds, $5 record seconds
-- name: create_namespace
INSERT INTO somactl.namespace
    (name, incarnation, version, created_at, keep_versions, keep_seconds, keep_record_seconds)
VALUES ($1, $2, 0, extract(epoch FROM clock_timestamp()), $3, $4, $5)
ON CONFLICT (name) DO NOTHING
RETURNING id;

-- $1 namespace, $2 incarnation
-- name: set_incarnation
UPDATE somactl.namespace SET incarnation = $2 WHERE name = $1;

-- $1 namespace, $2 versions, $3 seconds, $4 record seconds
-- name: set_retention
UPDATE somactl.namespace SET keep_versions = $2, keep_seconds = $3, keep_record_seconds = $4 WHERE name = $1;

-- $1 namespace, null for all
-- name: namespace_summaries
SELECT
    n.id, n.name, n.incarnation, n.version, n.created_at, n.keep_versions, n.keep_seconds, n.keep_record_seconds,
    n.floor, n.records_removed_until, live.keys, live.bytes, gone.tombstones
FROM somactl.namespace AS n
CROSS JOIN LATERAL (
    SELECT count(*) AS keys, coalesce(sum(size), 0)::bigint AS bytes FROM somactl.revision
    WHERE namespace = n.id AND superseded_version IS NULL AND content IS NOT NULL) AS live
CROSS JOIN LATERAL (
    SELECT count(*) AS tombstones FROM somactl.revision
    WHERE namespace = n.id AND superseded_version IS NULL AND content IS NULL) AS gone
WHERE $1::text IS NULL OR n.name = $1
ORDER BY n.name;

-- The namespace, the newest row of each key, and its bytes if they are what the row says: of the right length,
-- and in sum no more than $3, so that an answer stays small. One row without a revision for a key that was
-- never written. $1 namespace, $2 keys, $3 bytes
-- name: newest_values
SELECT
    n.incarnation AS head_incarnation, n.version AS head_version, wanted.key AS wanted,
    r.id, r.key, r.version, r.commit_id, r.committed_at, r.size, r.content, r.envelope, r.verdict,
    octet_length(p.data) AS length,
    CASE WHEN octet_length(p.data) = r.size
        AND sum(r.size) OVER (ORDER BY wanted.number ROWS UNBOUNDED PRECEDING) <= $3
    THEN p.data END AS data
FROM somactl.namespace AS n
LEFT JOIN unnest($2::text[]) WITH ORDINALITY AS wanted (key, number) ON true
LEFT JOIN LATERAL (
    SELECT * FROM somactl.revision AS newest
    WHERE newest.namespace = n.id AND newest.key = wanted.key
    ORDER BY newest.version DESC LIMIT 1
) AS r ON true
LEFT JOIN somactl.payload AS p ON p.id = r.id AND r.content IS NOT NULL
WHERE n.name = $1
ORDER BY wanted.number;

-- The row that was the key's newest at a version; its bytes as above. $1 namespace, $2 key, $3 version, $4 bytes
-- name: value_as_of
SELECT
    n.incarnation AS head_incarnation, n.version AS head_version, n.floor,
    r.id, r.key, r.version, r.commit_id, r.committed_at, r.size, r.content, r.envelope, r.verdict,
    r.superseded_version, r.compacted,
    octet_length(p.data) AS length,
    CASE WHEN octet_length(p.data) = r.size AND r.size <= $4 THEN p.data END AS data
FROM somactl.namespace AS n
LEFT JOIN LATERAL (
    SELECT * FROM somactl.revision AS past
    WHERE past.namespace = n.id AND past.key = $2 AND past.version <= $3
    ORDER BY past.version DESC LIMIT 1
) AS r ON true
LEFT JOIN somactl.payload AS p ON p.id = r.id AND r.content IS NOT NULL
WHERE n.name = $1;

-- $1 ids
-- name: payloads
SELECT id, data FROM somactl.payload WHERE id = ANY ($1::text[]::bigint[]);

-- $1 namespace, $2 keys
-- name: live_stats
SELECT
    n.incarnation AS head_incarnation, n.version AS head_version, n.keep_seconds, wanted.key AS wanted,
    r.key, r.version, r.commit_id, r.committed_at, r.size, r.content, r.kind, r.dtype, r.shape, r.layout
FROM somactl.namespace AS n
LEFT JOIN unnest($2::text[]) WITH ORDINALITY AS wanted (key, number) ON true
LEFT JOIN LATERAL (
    SELECT * FROM somactl.revision AS live
    WHERE live.namespace = n.id AND live.key = wanted.key
        AND live.superseded_version IS NULL AND live.content IS NOT NULL
    LIMIT 1
) AS r ON true
WHERE n.name = $1
ORDER BY wanted.number;

-- One page, and how far was looked. Of the first $6 keys those like $5 count, at most $7 of them and $8 bytes in
-- sum, but one at least. One row without a key where nothing counts. $1 namespace, $2 from this key, $3 before
-- this one (or null), $4 after this one
-- name: live_page
WITH place AS (
    SELECT id, keep_seconds FROM somactl.namespace WHERE name = $1
), looked AS MATERIALIZED (
    SELECT r.key, r.version, r.commit_id, r.committed_at, r.size, r.content, r.kind, r.dtype, r.shape, r.layout
    FROM somactl.revision AS r
    WHERE r.namespace = (SELECT id FROM place) AND r.key >= $2 AND ($3::text IS NULL OR r.key < $3) AND r.key > $4
        AND r.superseded_version IS NULL AND r.content IS NOT NULL
    ORDER BY r.key LIMIT $6
), matching AS (
    SELECT * FROM looked WHERE key LIKE $5 ORDER BY key LIMIT $7
), page AS (
    SELECT *, row_number() OVER upwards AS number, sum(size) OVER upwards AS bytes FROM matching
    WINDOW upwards AS (ORDER BY key ROWS UNBOUNDED PRECEDING)
)
SELECT
    place.keep_seconds, (SELECT count(*) FROM looked) AS looked, (SELECT max(key) FROM looked) AS last,
    (SELECT count(*) FROM matching) AS matching,
    page.key, page.version, page.commit_id, page.committed_at, page.size, page.content, page.kind, page.dtype,
    page.shape, page.layout
FROM place LEFT JOIN page ON page.number = 1 OR page.bytes <= $8
ORDER BY page.key;

-- The same for tombstones. One is described by the value it hides, unless retention has forgotten that.
-- name: tombstone_page
WITH place AS (
    SELECT id, keep_seconds FROM somactl.namespace WHERE name = $1
), looked AS MATERIALIZED (
    SELECT
        t.key, t.version, t.commit_id, t.committed_at, t.expires_at,
        hidden.size, hidden.content, hidden.kind, hidden.dtype, hidden.shape, hidden.layout
    FROM (
        SELECT * FROM somactl.revision AS r
        WHERE r.namespace = (SELECT id FROM place) AND r.key >= $2 AND ($3::text IS NULL OR r.key < $3) AND r.key > $4
            AND r.superseded_version IS NULL AND r.content IS NULL
        ORDER BY r.key LIMIT $6
    ) AS t
    LEFT JOIN LATERAL (
        SELECT * FROM somactl.revision AS older
        WHERE older.namespace = t.namespace AND older.key = t.key AND older.version < t.version
        ORDER BY older.version DESC LIMIT 1
    ) AS hidden ON true
), matching AS (
    SELECT * FROM looked WHERE key LIKE $5 ORDER BY key LIMIT $7
), page AS (
    SELECT *, row_number() OVER upwards AS number, sum(size) OVER upwards AS bytes FROM matching
    WINDOW upwards AS (ORDER BY key ROWS UNBOUNDED PRECEDING)
)
SELECT
    place.keep_seconds, (SELECT count(*) FROM looked) AS looked, (SELECT max(key) FROM looked) AS last,
    (SELECT count(*) FROM matching) AS matching,
    page.key, page.version, page.commit_id, page.committed_at, page.size, page.content, page.kind, page.dtype,
    page.shape, page.layout, page.expires_at
FROM place LEFT JOIN page ON page.number = 1 OR coalesce(page.bytes, 0) <= $8
ORDER BY page.key;

-- $1 namespace, $2 key
-- name: history
SELECT
    r.key, r.version, r.commit_id, r.committed_at, r.size, r.content, r.kind, r.verdict, r.compacted
FROM somactl.namespace AS n
LEFT JOIN somactl.revision AS r ON r.namespace = n.id AND r.key = $2
WHERE n.name = $1
ORDER BY r.version DESC;

-- $1 namespace, $2 commit id
-- name: commit_record
SELECT
    n.name, c.commit_id, c.version, c.incarnation, c.request, c.recorded_at, c.durability, c.noops, c.contents,
    c.metadata
FROM somactl.namespace AS n
LEFT JOIN somactl.commit_record AS c ON c.namespace = n.id AND c.commit_id = $2
WHERE n.name = $1;

-- $1 namespace, $2 before this version, $3 limit
-- name: commit_log
SELECT
    n.name, c.commit_id, c.version, c.incarnation, c.request, c.recorded_at, c.durability, c.noops, c.contents,
    c.metadata
FROM somactl.namespace AS n
LEFT JOIN LATERAL (
    SELECT * FROM somactl.commit_record AS r
    WHERE r.namespace = n.id AND r.version IS NOT NULL AND r.version < $2
    ORDER BY r.version DESC LIMIT $3
) AS c ON true
WHERE n.name = $1
ORDER BY c.version DESC;

-- The namespace, and after it in the row an event; one row without one where there are none. $1 namespace, $2 after
-- this version, $3 limit
-- name: events
SELECT
    n.incarnation AS head_incarnation, n.version AS head_version,
    c.commit_id, c.version, c.incarnation, c.recorded_at, c.contents, c.metadata
FROM somactl.namespace AS n
LEFT JOIN LATERAL (
    SELECT * FROM somactl.commit_record AS r
    WHERE r.namespace = n.id AND r.version IS NOT NULL AND r.version > $2
    ORDER BY r.version LIMIT $3
) AS c ON true
WHERE n.name = $1
ORDER BY c.version;

-- $1 namespace
-- name: publishing
SELECT
    n.incarnation, n.version, coalesce(n.published, 0) AS published, n.keep_events AS keep,
    CASE WHEN n.keep_events IS NULL THEN 0 ELSE (
        SELECT count(*) FROM somactl.commit_record AS c
        WHERE c.namespace = n.id AND c.version IS NOT NULL AND c.version > n.published) END AS backlog,
    n.dropped_events AS dropped
FROM somactl.namespace AS n WHERE n.name = $1;

-- The first mark turns publishing on. No row where the namespace is elsewhere. $1 namespace, $2 version,
-- $3 incarnation, or null for any, $4 how many to keep
-- name: mark_published
UPDATE somactl.namespace SET
    published = greatest(published, $2), keep_events = CASE WHEN published IS NULL THEN $4 ELSE keep_events END
WHERE name = $1 AND version >= $2 AND ($3::text IS NULL OR incarnation = $3)
RETURNING id;

-- $1 namespace, $2 how many to keep, null to turn it off
-- name: set_publishing
UPDATE somactl.namespace SET
    published = coalesce(published, 0), keep_events = $2,
    dropped_events = CASE WHEN $2::bigint IS NULL THEN dropped_events ELSE 0 END
WHERE name = $1 RETURNING id;

-- All that a commit is decided by, in one look and one row: the record of its id; where there is none, the newest
-- row of each key that it expects something of, as arrays that run alongside each other. $1 namespace,
-- $2 commit id, $3 keys
-- name: standing
SELECT
    n.name, n.incarnation AS head_incarnation, n.keep_versions, n.keep_seconds, n.keep_record_seconds,
    n.records_removed_until, extract(epoch FROM clock_timestamp())::double precision AS now,
    c.commit_id, c.version, c.incarnation, c.request, c.recorded_at, c.durability, c.noops, c.contents, c.metadata,
    found.keys AS found_keys, found.versions AS found_versions, found.contents AS found_contents
FROM somactl.namespace AS n
LEFT JOIN somactl.commit_record AS c ON c.namespace = n.id AND c.commit_id = $2
LEFT JOIN LATERAL (
    SELECT
        array_agg(newest.key) AS keys, array_agg(newest.version::text) AS versions,
        array_agg(newest.content) AS contents
    FROM unnest($3::text[]) AS wanted (key)
    CROSS JOIN LATERAL (
        SELECT * FROM somactl.revision AS one
        WHERE one.namespace = n.id AND one.key = wanted.key
        ORDER BY one.version DESC LIMIT 1
    ) AS newest
    WHERE c.commit_id IS NULL
) AS found ON true
WHERE n.name = $1;

-- Notes, their data only as long as these have no more than $3 bytes in sum, so that an answer stays small. One
-- row without a name where there are none. $1 namespace, $2 names, $3 bytes
-- name: notes
SELECT
    note.name, note.version, note.written_at, octet_length(note.data) AS size,
    CASE WHEN sum(octet_length(note.data)) OVER (ORDER BY note.name ROWS UNBOUNDED PRECEDING) <= $3
    THEN note.data END AS data
FROM somactl.namespace AS n
LEFT JOIN somactl.note ON note.namespace = n.id AND note.name = ANY ($2::text[])
WHERE n.name = $1;

-- $1 namespace, $2 from this name, $3 before this one (or null), $4 after this one, $5 limit
-- name: note_page
SELECT note.name, note.version, note.written_at, note.size
FROM somactl.namespace AS n
LEFT JOIN LATERAL (
    SELECT one.name, one.version, one.written_at, octet_length(one.data) AS size FROM somactl.note AS one
    WHERE one.namespace = n.id AND one.name >= $2 AND ($3::text IS NULL OR one.name < $3) AND one.name > $4
    ORDER BY one.name LIMIT $5
) AS note ON true
WHERE n.name = $1
ORDER BY note.name;

-- The parameters are those of the function, in its order.
-- name: write_notes
SELECT versions, there FROM somactl.write_notes($1, $2, $3, $4, $5, $6, $7);

-- $1 data
-- name: insert_payload
INSERT INTO somactl.payload (data) VALUES ($1) RETURNING id;

-- The parameters are those of the function, in its order.
-- name: commit
SELECT version, committed_at, incarnation, durability, noops FROM somactl.write_commit(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23);

-- $1 namespace, $2 commit id, $3 time inside the id
-- name: insert_aborted
INSERT INTO somactl.commit_record (namespace, commit_id, recorded_at, id_time)
SELECT id, $2, extract(epoch FROM clock_timestamp()), $3 FROM somactl.namespace WHERE name = $1
ON CONFLICT (namespace, commit_id) DO NOTHING;

-- What is no longer kept, oldest first. In all of these: $1 the namespace's id, $2 the limit.

-- First all that belongs to keys whose tombstone had a deadline of its own, and is past it: whatever the
-- retention says of them, it says no longer. One key after the other, so that no batch looks again at what the
-- batches before it have emptied. $3 the time
-- name: ungraced_values
SELECT r.id, r.size FROM (
    SELECT * FROM somactl.revision AS first
    WHERE first.namespace = $1 AND first.superseded_version IS NULL AND first.expires_at <= $3
    ORDER BY first.expires_at, first.id LIMIT $2
) AS t
JOIN somactl.revision AS r ON r.namespace = t.namespace AND r.key = t.key
WHERE r.superseded_version IS NOT NULL AND r.content IS NOT NULL AND NOT r.compacted
ORDER BY t.expires_at, t.id LIMIT $2;

-- $3 the time
-- name: ungraced_entries
SELECT r.id, 0 AS size FROM (
    SELECT * FROM somactl.revision AS first
    WHERE first.namespace = $1 AND first.superseded_version IS NULL AND first.expires_at <= $3
    ORDER BY first.expires_at, first.id LIMIT $2
) AS t
JOIN somactl.revision AS r ON r.namespace = t.namespace AND r.key = t.key
WHERE r.superseded_version IS NOT NULL
ORDER BY t.expires_at, t.id LIMIT $2;

-- $3 the time
-- name: ungraced_tombstones
SELECT t.id, 0 AS size FROM somactl.revision AS t
WHERE t.namespace = $1 AND t.superseded_version IS NULL AND t.expires_at <= $3
ORDER BY t.expires_at, t.id LIMIT $2;

-- The rest is the retention's, but for what a tombstone hides until its own deadline.

-- Superseded values. The hidden value of a tombstone was superseded when the tombstone was made, so the rule
-- for time is the tombstone's own. $3 superseded by then, $4 versions to keep, $5 the time
-- name: prunable_values
SELECT r.id, r.size FROM somactl.revision AS r
WHERE r.namespace = $1 AND r.superseded_version IS NOT NULL AND r.content IS NOT NULL AND NOT r.compacted
    AND NOT EXISTS (
        SELECT FROM somactl.revision AS t
        WHERE t.namespace = r.namespace AND t.key = r.key AND t.superseded_version IS NULL
            AND t.expires_at IS NOT NULL AND (t.expires_at <= $5 OR t.version = r.superseded_version))
    AND (r.superseded_at <= $3 OR (
        SELECT count(*) FROM (
            SELECT FROM somactl.revision AS newer
            WHERE newer.namespace = r.namespace AND newer.key = r.key
                AND newer.version > r.version AND newer.content IS NOT NULL
            LIMIT $4) AS counted
        ) = $4)
ORDER BY r.superseded_at LIMIT $2;

-- History entries without bytes (values pruned now or before, old tombstones): those past the record
-- retention, and those of a deleted key that is about to be forgotten. $6 recorded by then
-- name: removable_entries
SELECT r.id, 0 AS size FROM somactl.revision AS r
WHERE r.namespace = $1 AND r.superseded_version IS NOT NULL
    AND NOT EXISTS (
        SELECT FROM somactl.revision AS t
        WHERE t.namespace = r.namespace AND t.key = r.key AND t.superseded_version IS NULL
            AND t.expires_at IS NOT NULL AND (t.expires_at <= $5 OR t.version = r.superseded_version))
    AND (r.content IS NULL OR r.compacted OR r.superseded_at <= $3 OR (
        SELECT count(*) FROM (
            SELECT FROM somactl.revision AS newer
            WHERE newer.namespace = r.namespace AND newer.key = r.key
                AND newer.version > r.version AND newer.content IS NOT NULL
            LIMIT $4) AS counted
        ) = $4)
    AND (r.superseded_at <= $6 OR EXISTS (
        SELECT FROM somactl.revision AS tombstone
        WHERE tombstone.namespace = r.namespace AND tombstone.key = r.key
            AND tombstone.superseded_version IS NULL AND tombstone.content IS NULL
            AND tombstone.committed_at <= $3 AND tombstone.expires_at IS NULL))
ORDER BY r.superseded_at LIMIT $2;

-- A tombstone over a value that stays for now (its key's clock was set back) stays with it.
-- $3 deleted by then
-- name: expired_tombstones
SELECT r.id, 0 AS size FROM somactl.revision AS r
WHERE r.namespace = $1 AND r.superseded_version IS NULL AND r.content IS NULL AND r.committed_at <= $3
    AND r.expires_at IS NULL AND NOT EXISTS (
        SELECT FROM somactl.revision AS hidden
        WHERE hidden.namespace = r.namespace AND hidden.key = r.key
            AND hidden.content IS NOT NULL AND NOT hidden.compacted AND hidden.superseded_at > $3)
LIMIT $2;

-- Events that wait to be published stay. $3 recorded by then, $4 up to this version, $5 published up to
-- name: expired_records
SELECT commit_id AS id, 0 AS size, version, version > $5::bigint AS dropped FROM somactl.commit_record
WHERE namespace = $1 AND recorded_at <= $3 AND (id_time IS NULL OR id_time <= $3)
    AND (version IS NULL OR version <= $4)
ORDER BY recorded_at LIMIT $2;

-- Compactions of one namespace take turns, so that none waits for rows that another is removing.
-- $1 the lock, $2 the namespace's id
-- name: lock_compaction
SELECT pg_advisory_xact_lock($1, $2);

-- $1 ids
-- name: prune_values
UPDATE somactl.revision SET compacted = true
WHERE id = ANY ($1::text[]::bigint[]) AND superseded_version IS NOT NULL AND NOT compacted
RETURNING id, size;

-- $1 ids
-- name: delete_payloads
DELETE FROM somactl.payload WHERE id = ANY ($1::text[]::bigint[]);

-- $1 ids
-- name: delete_entries
DELETE FROM somactl.revision
WHERE id = ANY ($1::text[]::bigint[]) AND superseded_version IS NOT NULL AND (content IS NULL OR compacted)
RETURNING superseded_version AS gone_since;

-- A tombstone goes last: as long as an older entry of its key stands, it must say that the key is deleted.
-- $1 ids
-- name: delete_tombstones
DELETE FROM somactl.revision AS r
WHERE r.id = ANY ($1::text[]::bigint[]) AND r.superseded_version IS NULL AND r.content IS NULL AND NOT EXISTS (
    SELECT FROM somactl.revision AS older
    WHERE older.namespace = r.namespace AND older.key = r.key AND older.id <> r.id)
RETURNING r.version AS gone_since;

-- Publishing may have been turned on since they were looked for. $1 the namespace's id, $2 commit ids
-- name: delete_records
DELETE FROM somactl.commit_record AS c USING somactl.namespace AS n
WHERE n.id = $1 AND c.namespace = n.id AND c.commit_id = ANY ($2::text[])
    AND (c.version IS NULL OR c.version <= n.removable_until)
RETURNING c.version, n.keep_events IS NOT NULL AND c.version > n.published AS dropped;

-- $1 the namespace's id, $2 floor, $3 records removed until, $4 events dropped
-- name: raise_floor
UPDATE somactl.namespace
SET floor = greatest(floor, $2), records_removed_until = greatest(records_removed_until, $3),
    dropped_events = dropped_events + $4
WHERE id = $1;

-- The statements of the SQLite store, each below its name. `:name` is a parameter.

-- name: tables
SELECT name FROM sqlite_master;

-- name: newest_schema
SELECT version, least_reader, least_writer FROM somactl_schema ORDER BY version DESC LIMIT 1;

-- name: record_schema
INSERT INTO somactl_schema (version, least_reader, least_writer, applied_at)
VALUES (:version, :least_reader, :least_writer, :now);

-- name: namespace
SELECT * FROM namespace WHERE name = :namespace;

-- name: create_namespace
INSERT INTO namespace
    (name, incarnation, version, created_at, keep_versions, keep_seconds, keep_record_seconds)
VALUES (:namespace, :incarnation, 0, :now, :versions, :seconds, :record_seconds);

-- name: set_incarnation
UPDATE namespace SET incarnation = :incarnation WHERE name = :namespace;

-- name: set_retention
UPDATE namespace SET
    keep_versions = :versions, keep_seconds = :seconds, keep_record_seconds = :record_seconds
WHERE name = :namespace;

-- `:namespace` is null for all of them.
-- name: namespace_summaries
SELECT
    namespace.*,
    (SELECT count(*) FROM revision WHERE namespace = namespace.id
        AND superseded_version IS NULL AND content IS NOT NULL) AS live_keys,
    (SELECT count(*) FROM revision WHERE namespace = namespace.id
        AND superseded_version IS NULL AND content IS NULL) AS tombstones,
    (SELECT coalesce(sum(size), 0) FROM revision WHERE namespace = namespace.id
        AND superseded_version IS NULL AND content IS NOT NULL) AS stored_bytes
FROM namespace WHERE :namespace IS NULL OR name = :namespace ORDER BY name;

-- name: newest_revision
SELECT * FROM revision WHERE namespace = :id AND key = :key ORDER BY version DESC LIMIT 1;

-- The newest row of each of many keys, in the order of the JSON array `:keys`, with the bytes of those values that
-- are smaller than `:inline`, if they are of the right length. The length is told without reading the bytes.
-- name: newest_values
SELECT wanted.value AS key, newest.version, commit_id, committed_at, size, content, envelope, verdict, newest.id,
    CASE WHEN length(data) = size AND typeof(data) = 'blob' THEN data END AS data
FROM json_each(:keys) AS wanted
LEFT JOIN revision AS newest ON newest.id = (
    SELECT id FROM revision WHERE namespace = :id AND key = wanted.value ORDER BY version DESC LIMIT 1)
LEFT JOIN payload ON payload.id = newest.id AND size < :inline AND content IS NOT NULL;

-- Those of many keys that are live, described; a row of nothing but its key for each other. `:keys` as above
-- name: live_stats
SELECT wanted.value, version, commit_id, committed_at, size, content, kind, dtype, shape, layout
FROM json_each(:keys) AS wanted
LEFT JOIN revision INDEXED BY revision_live ON namespace = :id AND revision.key = wanted.value
    AND superseded_version IS NULL AND content IS NOT NULL;

-- name: revision_as_of
SELECT * FROM revision WHERE namespace = :id AND key = :key AND version <= :version
ORDER BY version DESC LIMIT 1;

-- name: history
SELECT * FROM revision WHERE namespace = :id AND key = :key ORDER BY version DESC;

-- name: live_keys_from
SELECT key, version, commit_id, committed_at, size, content, kind, dtype, shape, layout
FROM revision INDEXED BY revision_live
WHERE namespace = :id AND key >= :start AND superseded_version IS NULL AND content IS NOT NULL
ORDER BY key;

-- A tombstone is described by the value it hides, unless retention has forgotten that one.
-- name: tombstones_from
SELECT tombstone.key, tombstone.version, tombstone.commit_id, tombstone.committed_at,
    hidden.size, hidden.content, hidden.kind, hidden.dtype, hidden.shape, hidden.layout,
    grace.expires_at
FROM revision AS tombstone INDEXED BY revision_tombstone
LEFT JOIN grace ON grace.id = tombstone.id
LEFT JOIN revision AS hidden ON hidden.id = (
    SELECT id FROM revision AS older
    WHERE older.namespace = tombstone.namespace AND older.key = tombstone.key
        AND older.version < tombstone.version
    ORDER BY older.version DESC LIMIT 1)
WHERE tombstone.namespace = :id AND tombstone.key >= :start
    AND tombstone.superseded_version IS NULL AND tombstone.content IS NULL
ORDER BY tombstone.key;

-- name: supersede
UPDATE revision SET superseded_version = :version, superseded_at = :now WHERE id = :revision;

-- name: insert_revision
INSERT INTO revision
    (namespace, key, version, commit_id, committed_at, size, content, envelope, kind, dtype, shape, layout, verdict)
VALUES
    (:id, :key, :version, :commit_id, :now, :size, :content, :envelope, :kind, :dtype, :shape, :layout, :verdict);

-- name: insert_grace
INSERT INTO grace (id, namespace, expires_at) VALUES (:revision, :id, :expires_at);

-- name: delete_grace
DELETE FROM grace WHERE id = :revision;

-- The payload is made at its full size and then filled in place, so that no copy of it is ever bound.
-- name: reserve_payload
INSERT INTO payload (id, data) VALUES (:revision, zeroblob(:size));

-- A page's worth where the next one would stand, for a rehearsal, which belongs to no revision.
-- name: rehearse_payload
INSERT INTO payload (data) VALUES (zeroblob(4096));

-- name: advance_namespace
UPDATE namespace SET version = :version WHERE id = :id;

-- name: commit_record
SELECT * FROM commit_record WHERE namespace = :id AND commit_id = :commit_id;

-- name: commit_log
SELECT * FROM commit_record WHERE namespace = :id AND version IS NOT NULL AND version < :before
ORDER BY version DESC LIMIT :limit;

-- name: events
SELECT version, commit_id, recorded_at, detail FROM commit_record
WHERE namespace = :id AND version IS NOT NULL AND version > :after
ORDER BY version LIMIT :limit;

-- name: unpublished
SELECT count(*) AS backlog FROM commit_record WHERE namespace = :id AND version IS NOT NULL AND version > :published;

-- The first mark turns publishing on.
-- name: mark_published
UPDATE namespace SET
    published = max(coalesce(published, 0), :version),
    keep_events = CASE WHEN published IS NULL THEN :keep ELSE keep_events END
WHERE id = :id;

-- name: set_publishing
UPDATE namespace SET
    published = coalesce(published, 0), keep_events = :keep,
    dropped_events = CASE WHEN :keep IS NULL THEN dropped_events ELSE 0 END
WHERE id = :id;

-- name: insert_commit_record
INSERT INTO commit_record (namespace, commit_id, version, request, recorded_at, id_time, detail)
VALUES (:id, :commit_id, :version, :request, :now, :id_time, :detail);

-- A key that was deleted with a grace of its own, when that is over: first all its values lose their bytes, ...
-- name: values_past_grace
SELECT revision.id, revision.version, revision.size FROM (
    SELECT id FROM grace INDEXED BY grace_age WHERE namespace = :id AND expires_at <= :now
    ORDER BY expires_at, id LIMIT :keys
) AS due
CROSS JOIN revision AS tombstone ON tombstone.id = due.id
CROSS JOIN revision ON revision.namespace = tombstone.namespace AND revision.key = tombstone.key
WHERE revision.content IS NOT NULL AND revision.compacted = 0 LIMIT :limit;

-- ... then its history goes, ...
-- name: entries_past_grace
SELECT revision.id, revision.version, revision.superseded_version AS gone_since FROM (
    SELECT id FROM grace INDEXED BY grace_age WHERE namespace = :id AND expires_at <= :now
    ORDER BY expires_at, id LIMIT :keys
) AS due
CROSS JOIN revision AS tombstone ON tombstone.id = due.id
CROSS JOIN revision ON revision.namespace = tombstone.namespace AND revision.key = tombstone.key
    AND revision.version < tombstone.version
LIMIT :limit;

-- ... and the tombstone last.
-- name: tombstones_past_grace
SELECT tombstone.id, tombstone.version, tombstone.version AS gone_since FROM (
    SELECT id FROM grace INDEXED BY grace_age WHERE namespace = :id AND expires_at <= :now
    ORDER BY expires_at, id LIMIT :keys
) AS due
CROSS JOIN revision AS tombstone ON tombstone.id = due.id
LIMIT :limit;

-- Superseded values that retention no longer keeps. The hidden value of a tombstone was superseded when
-- the tombstone was made, so the rule for time is the tombstone's own. A tombstone with a grace keeps the
-- value it hides, and past its grace the key is no concern of these statements but of those above.
-- name: prunable_values
SELECT id, version, size FROM revision INDEXED BY revision_superseded
WHERE namespace = :id AND superseded_version IS NOT NULL AND content IS NOT NULL AND compacted = 0
    AND (superseded_at <= :values_until OR (
        SELECT count(*) FROM (
            SELECT 1 FROM revision AS newer
            WHERE newer.namespace = revision.namespace AND newer.key = revision.key
                AND newer.version > revision.version AND newer.content IS NOT NULL
            LIMIT :versions)
        ) = :versions)
    AND NOT EXISTS (
        SELECT 1 FROM revision AS tombstone JOIN grace ON grace.id = tombstone.id
        WHERE tombstone.namespace = revision.namespace AND tombstone.key = revision.key
            AND tombstone.superseded_version IS NULL AND tombstone.content IS NULL
            AND (grace.expires_at <= :now OR tombstone.version = revision.superseded_version))
ORDER BY superseded_at LIMIT :limit;

-- History entries without bytes (values pruned now or before, old tombstones): those past the record
-- retention, and those of a deleted key that is about to be forgotten.
-- name: removable_entries
SELECT id, version, superseded_version AS gone_since FROM revision INDEXED BY revision_superseded
WHERE namespace = :id AND superseded_version IS NOT NULL
    AND (content IS NULL OR compacted = 1 OR superseded_at <= :values_until OR (
        SELECT count(*) FROM (
            SELECT 1 FROM revision AS newer
            WHERE newer.namespace = revision.namespace AND newer.key = revision.key
                AND newer.version > revision.version AND newer.content IS NOT NULL
            LIMIT :versions)
        ) = :versions)
    AND (superseded_at <= :records_until OR EXISTS (
        SELECT 1 FROM revision AS tombstone
        WHERE tombstone.namespace = revision.namespace AND tombstone.key = revision.key
            AND tombstone.superseded_version IS NULL AND tombstone.content IS NULL
            AND tombstone.committed_at <= :values_until
            AND NOT EXISTS (SELECT 1 FROM grace WHERE grace.id = tombstone.id)))
    AND NOT EXISTS (
        SELECT 1 FROM revision AS tombstone JOIN grace ON grace.id = tombstone.id
        WHERE tombstone.namespace = revision.namespace AND tombstone.key = revision.key
            AND tombstone.superseded_version IS NULL AND tombstone.content IS NULL
            AND (grace.expires_at <= :now OR tombstone.version = revision.superseded_version))
ORDER BY superseded_at LIMIT :limit;

-- A tombstone over a value that stays for now (its key's clock was set back) stays with it.
-- name: expired_tombstones
SELECT id, version, version AS gone_since FROM revision INDEXED BY revision_tombstone
WHERE namespace = :id AND superseded_version IS NULL AND content IS NULL AND committed_at <= :values_until
    AND NOT EXISTS (SELECT 1 FROM grace WHERE grace.id = revision.id)
    AND NOT EXISTS (
        SELECT 1 FROM revision AS hidden
        WHERE hidden.namespace = revision.namespace AND hidden.key = revision.key
            AND hidden.content IS NOT NULL AND hidden.compacted = 0 AND hidden.superseded_at > :values_until)
LIMIT :limit;

-- name: expired_records
SELECT rowid AS id, version FROM commit_record
WHERE namespace = :id AND recorded_at <= :records_until
    AND (id_time IS NULL OR id_time <= :records_until)
    AND (version IS NULL OR version <= :removable_until)
LIMIT :limit;

-- Between finding and removing, another process may have removed a row and a commit taken its id. A version
-- is taken once in a namespace, so together with it the id means the row that was found, or none.
-- name: prune_value
UPDATE revision SET compacted = 1
WHERE id = :row AND namespace = :id AND version = :version AND superseded_version IS NOT NULL;

-- name: delete_payload
DELETE FROM payload WHERE id = (
    SELECT id FROM revision WHERE id = :row AND namespace = :id AND version = :version AND compacted = 1);

-- name: delete_entry
DELETE FROM revision
WHERE id = :row AND namespace = :id AND version = :version
    AND superseded_version IS NOT NULL AND (content IS NULL OR compacted = 1);

-- A tombstone goes last: as long as an older entry of its key stands, it must say that the key is deleted.
-- name: delete_tombstone
DELETE FROM revision
WHERE id = :row AND namespace = :id AND version = :version
    AND superseded_version IS NULL AND content IS NULL AND NOT EXISTS (
        SELECT 1 FROM revision AS older
        WHERE older.namespace = revision.namespace AND older.key = revision.key AND older.id <> revision.id);

-- name: delete_record
DELETE FROM commit_record WHERE rowid = :row AND namespace = :id AND recorded_at <= :records_until;

-- name: raise_floor
UPDATE namespace SET
    floor = max(floor, :floor), records_removed_until = max(records_removed_until, :records),
    dropped_events = dropped_events + :dropped
WHERE id = :id;

-- name: note
SELECT name, version, size, written_at, data FROM note WHERE namespace = :id AND name = :name;

-- name: note_version
SELECT version FROM note WHERE namespace = :id AND name = :name;

-- name: notes_from
SELECT name, version, size, written_at FROM note
WHERE namespace = :id AND name >= :prefix AND name > :after ORDER BY name LIMIT :limit;

-- name: write_note
INSERT OR REPLACE INTO note (namespace, name, version, size, written_at, data)
VALUES (:id, :name, :version, :size, :now, :data);

-- name: delete_note
DELETE FROM note WHERE namespace = :id AND name = :name;

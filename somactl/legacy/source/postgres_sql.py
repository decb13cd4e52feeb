"""The statements that `postgres.py` sends. They name a table that only the URL knows, so no file holds them.

`table` is always a quoted name, `type` one of `postgres_table.TYPES`; everything else is a parameter.
"""

from __future__ import annotations

FIND = """
SELECT format('%I.%I', n.nspname, c.relname) AS name,
       c.relkind = ANY ('{r,p}') AS is_table,
       k.atttypid::regtype::text AS key_type,
       v.atttypid::regtype::text AS value_type,
       row_security_active(c.oid) AS filtered,
       EXISTS (
           SELECT FROM pg_index AS i
           WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
             AND i.indnkeyatts = 1 AND i.indkey[0] = k.attnum
       ) AS is_unique,
       CASE o.collname
           WHEN 'default' THEN (
               -- Older servers have no providers: it is the C library's order.
               SELECT d.datcollate IN ('C', 'POSIX') AND coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = 'c'
               FROM pg_database AS d WHERE d.datname = current_database()
           )
           ELSE o.collname IN ('C', 'POSIX')
       END AS byte_order
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute AS k ON k.attrelid = c.oid AND k.attname = 'key' AND NOT k.attisdropped
LEFT JOIN pg_attribute AS v ON v.attrelid = c.oid AND v.attname = 'value' AND NOT v.attisdropped
LEFT JOIN pg_collation AS o ON o.oid = k.attcollation
WHERE c.oid = to_regclass($1)
"""

WALK_SETTINGS = "SET LOCAL work_mem = '64MB'; SET LOCAL jit = off"
"""What was walked over stays in memory, not in temporary files of the server; and compiling a statement
takes longer than running it."""


def page(table: str, *, first: bool) -> str:
    """The next keys after $1 (or from $1 on), at most $2, in the order of the column's own index."""
    return f"SELECT key FROM {table} WHERE key {'>=' if first else '>'} $1 ORDER BY key LIMIT $2"


def walk(table: str) -> str:
    """The values of the keys $1, one after another, until they have $2 bytes in sum.

    A window over the sizes would put all values into words before it chose the first few of them. So this
    goes from key to key, and stops; the value that would pass the limit is not sent. Nor is one longer than
    $3. Columns: whether the key is there, how long its value is, and the value, NULL where it is not sent.
    """
    return f"""
WITH RECURSIVE walk (ord, found, size, data, total) AS (
    SELECT 0, NULL::boolean, NULL::bigint, NULL::bytea, 0::bigint
    UNION ALL
    SELECT w.ord + 1, t.found, octet_length(t.text)::bigint,
           CASE WHEN octet_length(t.text) <= $3::bigint
                 AND (w.total = 0 OR w.total + octet_length(t.text) <= $2::bigint)
                THEN convert_to(t.text, 'UTF8') END,
           w.total + CASE WHEN octet_length(t.text) <= $3::bigint THEN octet_length(t.text) ELSE 0 END
    FROM walk AS w
    LEFT JOIN LATERAL (
        SELECT true AS found, value::text AS text FROM {table} WHERE key = ($1::text[])[w.ord + 1]
        OFFSET 0 -- so that the text is made once, not wherever it stands
    ) AS t ON true
    WHERE w.ord < cardinality($1::text[]) AND w.total < $2::bigint
)
SELECT found, size, data FROM walk WHERE ord > 0 ORDER BY ord
"""


def swap(table: str, type_: str) -> str:
    """Carry out the changes of the keys $1 from $2 to $3, each only where $2 still is the value; their keys.

    $2 is compared as the column spells it: JSONB has an order of keys of its own.

    A row that another transaction is changing is waited for, and compared as that leaves it.
    """
    return f"""
WITH change AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) AS c (key, before, after) ORDER BY key
), replaced AS (
    UPDATE {table} AS t SET value = c.after::{type_} FROM change AS c
    WHERE t.key = c.key AND {_is_before(type_)} AND c.after IS NOT NULL
    RETURNING t.key
), removed AS (
    DELETE FROM {table} AS t USING change AS c
    WHERE t.key = c.key AND {_is_before(type_)} AND c.after IS NULL
    RETURNING t.key
), added AS (
    INSERT INTO {table} AS t (key, value)
    SELECT c.key, c.after::{type_} FROM change AS c
    WHERE c.key IS NOT NULL AND c.before IS NULL AND c.after IS NOT NULL
    ON CONFLICT DO NOTHING
    RETURNING t.key
)
SELECT key FROM replaced UNION ALL SELECT key FROM removed UNION ALL SELECT key FROM added
"""


def _is_before(type_: str) -> str:
    """Nearly always $2 is what the column itself once said, and need not be parsed to be spelt so again."""
    return f"(t.value::text = c.before OR t.value::text = c.before::{type_}::text)"


def standing(table: str, type_: str) -> str:
    """Those of the keys $1 whose value now is that of $2; NULL: not there."""
    return f"""
SELECT c.key
FROM unnest($1::text[], $2::text[]) AS c (key, after)
LEFT JOIN {table} AS t ON t.key = c.key
WHERE c.key IS NOT NULL AND t.value::text IS NOT DISTINCT FROM c.after::{type_}::text
"""

-- Create a namespace, or change what its head says. With a new incarnation, it also makes a new head where
-- the old one was lost.
--
-- KEYS  1 head  2 keys  3 deleted  4 superseded  5 bodiless  6 version_counts  7 log  8 records,
--       then all other parts that a namespace has once each
-- ARGV  1 layout  2 least reader  3 least writer  4 new incarnation  5 '1': give it to an existing namespace
--       6-8 retention: versions, seconds, record seconds  9 '1': for an existing namespace as well
--       10 '1': the registry knows the namespace  11 least version and 12 bytes of live values, where the
--       head was lost
-- Reply {'head', head}, {'newer', head}, {'damaged'} where there is all but the head, or {'absent'} where a new
-- incarnation is wanted of nothing

local function head()
    return redis.call('HMGET', KEYS[1], 'incarnation', 'version', 'created_at', 'versions', 'seconds',
        'record_seconds', 'floor', 'records_removed_until', 'layout', 'least_reader', 'least_writer')
end

local before = head()
if before[1] then
    if tonumber(before[11]) > tonumber(ARGV[1]) then
        return {'newer', before}
    end
    if ARGV[9] == '1' then
        redis.call('HSET', KEYS[1], 'versions', ARGV[6], 'seconds', ARGV[7], 'record_seconds', ARGV[8])
    end
    if ARGV[5] == '1' then
        redis.call('HSET', KEYS[1], 'incarnation', ARGV[4], 'keys', redis.call('ZCARD', KEYS[2]),
            'tombstones', redis.call('ZCARD', KEYS[3]))
        redis.call('HDEL', KEYS[1], 'replid', 'durability', 'run_id', 'replaced_behind', 'replaced_at')
    end
    return {'head', head()}
end

local known = ARGV[10] == '1'
for i = 2, #KEYS do
    known = known or redis.call('EXISTS', KEYS[i]) == 1
end
if not known and ARGV[5] == '1' then
    return {'absent'}
end
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', tonumber(time[2]))
local version, floor, removed, bytes = 0, 0, '0', '0'
if known then
    if ARGV[5] ~= '1' then
        return {'damaged'}
    end
    -- History and records may be gone too: nothing is taken to be absent because it is not there.
    version = tonumber(ARGV[11])
    local logged = redis.call('ZREVRANGE', KEYS[7], 0, 0, 'WITHSCORES')
    if logged[2] then
        version = math.max(version, tonumber(logged[2]))
    end
    floor, removed, bytes = version + 1, now, ARGV[12]
end
redis.call('HSET', KEYS[1], 'incarnation', ARGV[4], 'version', string.format('%.0f', version), 'created_at', now,
    'versions', ARGV[6], 'seconds', ARGV[7], 'record_seconds', ARGV[8],
    'floor', string.format('%.0f', floor), 'records_removed_until', removed,
    'layout', ARGV[1], 'least_reader', ARGV[2], 'least_writer', ARGV[3],
    'keys', redis.call('ZCARD', KEYS[2]), 'tombstones', redis.call('ZCARD', KEYS[3]), 'bytes', bytes)
return {'head', head()}

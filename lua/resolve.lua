-- What became of a commit id; one that was never seen is claimed as aborted.
--
-- KEYS  1 head  2 records  3 commit:ID
-- ARGV  1 layout this writer knows  2 commit id  3 time inside the id, or ''
-- Reply {'missing'}, {'newer', head}, or {'record', head, record}

local head = redis.call('HMGET', KEYS[1], 'incarnation', 'version', 'created_at', 'versions', 'seconds',
    'record_seconds', 'floor', 'records_removed_until', 'layout', 'least_reader', 'least_writer')
if not head[1] then
    return {'missing'}
end
if tonumber(head[11]) > tonumber(ARGV[1]) then
    return {'newer', head}
end

redis.call('ZCARD', KEYS[2]) -- an error here, if it is of a foreign type, and not half-way
if redis.call('HGET', KEYS[3], 'at') then
    redis.call('PERSIST', KEYS[1]) -- changes nothing, and is refused by a replica, whose word is not final
else
    local time = redis.call('TIME')
    local now = time[1] .. '.' .. string.format('%06d', tonumber(time[2]))
    local forget = now
    if ARGV[3] ~= '' and tonumber(ARGV[3]) > tonumber(now) then
        forget = ARGV[3]
    end
    redis.call('HSET', KEYS[3], 'at', now)
    redis.call('ZADD', KEYS[2], forget, ARGV[2])
end
return {'record', head, redis.call('HMGET', KEYS[3], 'identity', 'version', 'at', 'incarnation', 'detail',
    'noops', 'durability')}

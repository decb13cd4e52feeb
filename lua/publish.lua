-- Mark events as published, or turn publishing on or off.
--
-- KEYS  1 head
-- ARGV  1 layout this writer knows  2 version up to which they were published, or ''  3 incarnation that is
--       expected, or ''  4 how many events to keep, or '' to turn it off; with a version, where it is the first
-- Reply {'missing'}, {'newer', head}, or {'done', head}; nothing is written where the head is elsewhere

local head = redis.call('HMGET', KEYS[1], 'incarnation', 'version', 'created_at', 'versions', 'seconds',
    'record_seconds', 'floor', 'records_removed_until', 'layout', 'least_reader', 'least_writer', 'published')
if not head[1] then
    return {'missing'}
end
if tonumber(head[11]) > tonumber(ARGV[1]) then
    return {'newer', head}
end
local version, published = ARGV[2], head[12] or '0'
if version == '' then
    redis.call('HSET', KEYS[1], 'published', published)
    if ARGV[4] == '' then
        redis.call('HDEL', KEYS[1], 'keep_events')
    else
        redis.call('HSET', KEYS[1], 'keep_events', ARGV[4], 'dropped_events', '0')
    end
elseif tonumber(version) <= tonumber(head[2]) and (ARGV[3] == '' or ARGV[3] == head[1]) then
    if tonumber(version) < tonumber(published) then
        version = published
    end
    redis.call('HSET', KEYS[1], 'published', version)
    if not head[12] then
        redis.call('HSET', KEYS[1], 'keep_events', ARGV[4])
    end
end
return {'done', head}

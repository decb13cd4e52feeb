-- Remove what became of old commits, and their events with that, but for those that wait to be published.
--
-- KEYS  1 head  2 log  3 records, then the commit:ID of each record
-- ARGV  1 time up to which records go, then their commit ids
-- Reply nil where there is no head, or {records removed, events among them, events dropped unpublished}

local head = redis.call('HMGET', KEYS[1], 'records_removed_until', 'version', 'published', 'keep_events')
if not head[1] then
    return nil
end
redis.call('ZCARD', KEYS[2])
redis.call('ZCARD', KEYS[3])
local published, removable = tonumber(head[3] or '0'), tonumber(head[2])
if head[4] then
    removable = math.max(published, removable - tonumber(head[4]))
end
local records, events, dropped = 0, 0, 0
for i = 2, #ARGV do
    local id = ARGV[i]
    local time = redis.call('ZSCORE', KEYS[3], id)
    local version = tonumber(redis.call('ZSCORE', KEYS[2], id) or '0') -- an aborted one has none
    if time and tonumber(time) <= tonumber(ARGV[1]) and version <= removable then
        redis.call('DEL', KEYS[2 + i])
        redis.call('ZREM', KEYS[3], id)
        redis.call('ZREM', KEYS[2], id)
        records = records + 1
        events = events + (version > 0 and 1 or 0)
        dropped = dropped + (head[4] and version > published and 1 or 0)
    end
end
if records > 0 and tonumber(head[1]) < tonumber(ARGV[1]) then
    redis.call('HSET', KEYS[1], 'records_removed_until', ARGV[1])
end
if dropped > 0 then
    redis.call('HINCRBY', KEYS[1], 'dropped_events', string.format('%.0f', dropped))
end
return {records, events, dropped}

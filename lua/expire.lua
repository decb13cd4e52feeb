-- Remove what became of old commits, and old events.
--
-- KEYS  1 head  2 log  3 records  4 outbox, then the commit:ID of each record
-- ARGV  1 time up to which records go  2 number of records, then their commit ids, then ids of events
-- Reply nil where there is no head, or {records removed, events removed}

local removed = redis.call('HGET', KEYS[1], 'records_removed_until')
if not removed then
    return nil
end
redis.call('ZCARD', KEYS[2])
redis.call('ZCARD', KEYS[3])
local records, events = 0, 0
local ids = tonumber(ARGV[2])
for i = 1, ids do
    local id = ARGV[2 + i]
    local time = redis.call('ZSCORE', KEYS[3], id)
    if time and tonumber(time) <= tonumber(ARGV[1]) then
        redis.call('DEL', KEYS[4 + i])
        redis.call('ZREM', KEYS[3], id)
        redis.call('ZREM', KEYS[2], id)
        records = records + 1
    end
end
for i = 3 + ids, #ARGV do
    events = events + redis.call('XDEL', KEYS[4], ARGV[i])
end
if records > 0 and tonumber(removed) < tonumber(ARGV[1]) then
    redis.call('HSET', KEYS[1], 'records_removed_until', ARGV[1])
end
return {records, events}

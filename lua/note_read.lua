-- Notes as of one moment.
--
-- KEYS  1 head  2 noted, then the note of each name
-- ARGV  1 how many bytes of data to send along, in all: a script copies what it returns, so more is fetched
--       apart  2 ... the names
-- Reply {head, {what `noted` says of each, or nil}, {data of each, or nil}}

local head = redis.call('HMGET', KEYS[1], 'incarnation', 'version', 'created_at', 'versions', 'seconds',
    'record_seconds', 'floor', 'records_removed_until', 'layout', 'least_reader', 'least_writer')
local room = tonumber(ARGV[1])
local facts, data = {}, {}
for i = 3, #KEYS do
    facts[i - 2] = redis.call('HGET', KEYS[2], ARGV[i - 1])
    data[i - 2] = false
    local size = facts[i - 2] and redis.call('STRLEN', KEYS[i]) or room + 1
    if size <= room then
        room = room - size
        data[i - 2] = redis.call('GET', KEYS[i]) or ''
    end
end
return {head, facts, data}

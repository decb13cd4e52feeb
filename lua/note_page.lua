-- A page of the notes, at one moment.
--
-- KEYS  1 head  2 notes  3 noted
-- ARGV  1 where to begin (as ZRANGEBYLEX takes it)  2 how many
-- Reply {head, names, what `noted` says of each}

local head = redis.call('HMGET', KEYS[1], 'incarnation', 'version', 'created_at', 'versions', 'seconds',
    'record_seconds', 'floor', 'records_removed_until', 'layout', 'least_reader', 'least_writer')
local names = redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1], '+', 'LIMIT', 0, ARGV[2])
local facts = {}
for i, name in ipairs(names) do
    facts[i] = redis.call('HGET', KEYS[3], name)
end
return {head, names, facts}

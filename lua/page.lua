-- A page of an index, at one moment. Its keys must be known to the caller, because every name a script
-- touches is declared: where they are not those in the index now, the reply says which are.
--
-- KEYS  1 head  2 index, then the history of each key that is wanted
-- ARGV  1 first key (as ZRANGEBYLEX takes it)  2 how many  then the keys that the caller takes to be there
-- Reply {'keys', head, key...}, or {'page', head, {newest line, line before it} for each key wanted}

local function short(line)
    return line and string.match(line, '^[^\n]*\n[^\n]*') or false
end

local head = redis.call('HMGET', KEYS[1], 'incarnation', 'version', 'created_at', 'versions', 'seconds',
    'record_seconds', 'floor', 'records_removed_until', 'layout', 'least_reader', 'least_writer')
local keys = redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1], '+', 'LIMIT', 0, ARGV[2])
local same = #keys == #ARGV - 2
for i = 1, #keys do
    same = same and keys[i] == ARGV[i + 2]
end
if not same then
    return {'keys', head, keys}
end
local lines = {}
for i = 3, #KEYS do
    local newest = redis.call('ZREVRANGE', KEYS[i], 0, 1)
    lines[i - 2] = {short(newest[1]), short(newest[2])}
end
return {'page', head, lines}

-- Where many keys are, at one moment.
--
-- KEYS  1 head, then the history of each key
-- ARGV  1 '1': with verdicts
-- Reply {head, newest entry of its history, or nil, for each key}

local head = redis.call('HMGET', KEYS[1], 'incarnation', 'version', 'created_at', 'versions', 'seconds',
    'record_seconds', 'floor', 'records_removed_until', 'layout', 'least_reader', 'least_writer')
local entries = {}
for i = 2, #KEYS do
    local entry = redis.call('ZRANGE', KEYS[i], -1, -1)[1] or false
    if entry and ARGV[1] ~= '1' then
        entry = string.match(entry, '^[^\n]*\n[^\n]*')
    end
    entries[i - 1] = entry
end
return {head, entries}

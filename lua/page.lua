-- A page of an index, at one moment. Every name that a script touches is declared, so the caller must know
-- which keys there may be: where others are there by now, the reply says which.
--
-- KEYS  1 head  2 index, then the history of each key that is wanted
-- ARGV  1 where to begin (as ZRANGEBYLEX takes it)  2 how many keys  3 how many are wanted, then these, in the
--       order of their histories, then others that may be there
-- Reply {'keys', head, key...}, or {'page', head, {key, newest entry, entry before it} for each wanted one that
--       is there, number of keys there, the last of them}; the entries are without verdicts

local function short(entry)
    return entry and string.match(entry, '^[^\n]*\n[^\n]*') or false
end

local head = redis.call('HMGET', KEYS[1], 'incarnation', 'version', 'created_at', 'versions', 'seconds',
    'record_seconds', 'floor', 'records_removed_until', 'layout', 'least_reader', 'least_writer')
local keys = redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1], '+', 'LIMIT', 0, ARGV[2])
local history = {}
for i = 4, #ARGV do
    history[ARGV[i]] = i - 3 <= tonumber(ARGV[3]) and KEYS[i - 1] or ''
end
local rows = {}
for i = 1, #keys do
    local name = history[keys[i]]
    if not name then
        return {'keys', head, keys}
    end
    if name ~= '' then
        local newest = redis.call('ZREVRANGE', name, 0, 1)
        rows[#rows + 1] = {keys[i], short(newest[1]), short(newest[2])}
    end
end
return {'page', head, rows, #keys, keys[#keys] or false}

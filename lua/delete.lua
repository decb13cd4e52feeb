-- A commit that deletes, each key at an expected version, in as little time as possible: it does what
-- the commit script does in the plain case, and nothing at all in any other.
--
-- KEYS  1 head  2 keys  3 deleted  4 log  5 records  6 commit:ID  7 delete_batches  8 expiring_batches  9 delete_batch
--       the history of each key
-- ARGV  1 layout this writer knows  2 commit id  3 time inside the id, or ''  4 identity  5 detail
--       6 durability  7 token of `delete_batch`  8 grace in seconds, or ''  9 number of lists of deleted keys, then these
--       lists, then the expected version of each key, or '' for any
-- Reply {'done', version, time, incarnation, ''}, or {'other'}, with nothing written: ask the commit script
--
-- What costs time here is each key's: two calls, and most of it is waiting for memory. So the keys should come
-- in byte order, as the indexes have them. Numbers are written as text, since turning one of Lua's into an
-- argument takes as long as a call.

local FIXED = 9
local call, sub, byte, find, match = redis.call, string.sub, string.byte, string.find, string.match

local head = call('HMGET', KEYS[1], 'incarnation', 'version', 'least_writer', 'record_seconds',
    'records_removed_until', 'keys', 'tombstones', 'bytes')
if not head[1] or tonumber(head[3]) > tonumber(ARGV[1]) or call('EXISTS', KEYS[6]) == 1 then
    return {'other'}
end
local told = redis.pcall('INFO', 'replication')
local replid = type(told) == 'string' and match(told, 'master_replid:(%x+)')
local seen = call('HMGET', KEYS[1], 'replid', 'durability')
if replid and (replid ~= seen[1] or ARGV[6] ~= seen[2]) then
    return {'other'} -- the server may have been replaced, which the commit script writes down
end
local time = call('TIME')
local now = time[1] .. '.' .. string.format('%06d', tonumber(time[2]))
if ARGV[3] ~= '' and tonumber(ARGV[3]) <= math.max(tonumber(now) - tonumber(head[4]), tonumber(head[5])) then
    return {'other'}
end
local keys, tombstones, bytes = tonumber(head[6]), tonumber(head[7]), tonumber(head[8])
if call('ZCARD', KEYS[2]) ~= keys or call('ZCARD', KEYS[3]) ~= tombstones then
    return {'other'}
end
for i = 5, 8 do
    if i ~= 6 then
        call('ZCARD', KEYS[i]) -- an error here, if it is of a foreign type, and not half-way
    end
end

if tonumber(call('ZREVRANGE', KEYS[4], '0', '0', 'WITHSCORES')[2] or '0') > tonumber(head[2]) then
    return {'other'}
end

local first_version = 9 + tonumber(ARGV[9])
local OPEN = ' - - live\n{"content":"' -- behind the two times of a live value's line; 32 digits, and its size
local behind = #OPEN + 34
for i = FIXED + 1, #KEYS do
    local line = call('ZRANGE', KEYS[i], '-1', '-1')[1] or ''
    local wanted = ARGV[first_version + i - FIXED]
    local open = find(line, OPEN, #wanted + 1, true)
    local size = open and match(line, '^"size":(%d+)', open + behind)
    if not size or (wanted ~= '' and (sub(line, 1, #wanted) ~= wanted or byte(line, #wanted + 1) ~= 32)) then
        return {'other'}
    end
    bytes = bytes - size
end

local version = string.format('%.0f', tonumber(head[2]) + 1)
-- The first write can still be refused, where memory is full.
call('ZADD', KEYS[4], version, ARGV[2])

local deadline = ''
local tomb = version .. ' ' .. now .. ' - - tomb\n{"commit":"' .. ARGV[2] .. '"'
if ARGV[8] ~= '' then
    deadline = string.format('%.6f', tonumber(now) + tonumber(ARGV[8]))
    tomb = tomb .. ',"until":' .. deadline
end
tomb = tomb .. '}\n'

local prefix = #KEYS[1] - 4 + 9 -- where the key begins in the name of its history: `head`, and `history:`
local live_keys, dead_keys = {}, {}
local function flush(count)
    keys = keys - call('ZREM', KEYS[2], unpack(live_keys, 1, count)) -- at most 500
    tombstones = tombstones + call('ZADD', KEYS[3], unpack(dead_keys, 1, 2 * count)) -- at most 1,000
end
local count = 0
for i = FIXED + 1, #KEYS do
    call('ZADD', KEYS[i], version, tomb)
    local key = sub(KEYS[i], prefix)
    count = count + 1
    live_keys[count] = key
    dead_keys[2 * count - 1] = '0'
    dead_keys[2 * count] = key
    if count == 500 then
        flush(count)
        count = 0
    end
end
if count > 0 then
    flush(count)
end

for i = 10, first_version do
    call('RPUSH', KEYS[9], ARGV[i])
end
if deadline ~= '' then
    call('ZADD', KEYS[8], deadline, version .. ' ' .. ARGV[7])
else
    call('ZADD', KEYS[7], now, version .. ' ' .. ARGV[7])
end
call('HSET', KEYS[1], 'version', version, 'keys', string.format('%.0f', keys),
    'tombstones', string.format('%.0f', tombstones), 'bytes', string.format('%.0f', bytes))
call('HSET', KEYS[6], 'identity', ARGV[4], 'version', version, 'at', now, 'incarnation', head[1],
    'detail', ARGV[5], 'noops', '', 'durability', ARGV[6])
local forget = now
if ARGV[3] ~= '' and tonumber(ARGV[3]) > tonumber(now) then
    forget = ARGV[3]
end
call('ZADD', KEYS[5], forget, ARGV[2])
return {'done', version, now, head[1], ''}

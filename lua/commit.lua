-- One commit. Everything is checked first; what is written after that cannot fail, and frees no payload.
--
-- KEYS  1 head  2 keys  3 deleted  4 superseded  5 bodiless  6 version_counts  7 log  8 records  9 commit:ID
--       10 delete_batches  11 expiring_batches  12 delete_batch
--       for each put: live, history, old, stage;  each delete: live, history, old;  each guard: history
-- ARGV  1 layout this writer knows  2 commit id  3 time inside the id, or ''  4 identity  5 detail
--       6 durability  7 token of `old` and `delete_batch`  8 number of puts  9 of deletes  10 of expectations
--       11 grace in seconds, or ''  12 number of lists of deleted keys, then these lists
--       for each put: key, size, about, verdict, and the value, or '' where it lies under its name `stage`;
--       each delete: key;
--       each expectation: number of its subject (puts, deletes, guards, counted through), then version,
--       incarnation and content, each '=' and what is expected, or '' for anything
-- Reply {'done', version, time, incarnation, no-ops}, or, with nothing written: {'missing'}, {'newer', head},
--       {'damaged', what}, {'known', record}, {'refused', time, head, subject...}, {'unstaged', key}
--
-- A delete leaves the bytes where they are, under a tombstone: the line of the value stays open, and its end is
-- the tombstone, the next line. Only a put over the tombstone closes both, and takes the bytes out of the way.
-- With a grace, the tombstone says until when the value can come back; that the bytes expire then is for lapse.
--
-- A subject is {version, content, since}: its live version ('0': none) and content, or since when it is deleted.

local FIXED = 12
local LATER_MS = 60000 -- bytes that are no longer needed are not freed here, which takes time

-- The fields of a head, as every reply has them, and behind them the counts.
local head = redis.call('HMGET', KEYS[1], 'incarnation', 'version', 'created_at', 'versions', 'seconds',
    'record_seconds', 'floor', 'records_removed_until', 'layout', 'least_reader', 'least_writer',
    'keys', 'tombstones', 'bytes')
if not head[1] then
    return {'missing'}
end
if tonumber(head[11]) > tonumber(ARGV[1]) then
    return {'newer', head}
end

-- Whose writes this server has: the id is a new one behind every failover and every restart. A server that does
-- not tell it tells an error, which is no string.
local seen = redis.call('HMGET', KEYS[1], 'replid', 'durability', 'run_id')
local told = redis.pcall('INFO', 'replication')
local replid = type(told) == 'string' and string.match(told, 'master_replid:(%x+)')

local record = redis.call('HMGET', KEYS[9], 'identity', 'version', 'at', 'incarnation', 'detail', 'noops',
    'durability')
if record[3] then
    -- A write that changes nothing: a server that was demoted meanwhile may know of commits that the new primary
    -- does not have, and must not vouch for them.
    redis.call('PERSIST', KEYS[1])
    return {'known', record}
end

local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', tonumber(time[2]))
local puts, deletes, wanted = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local first_put = 12 + tonumber(ARGV[12])
local first_delete = FIXED + 4 * puts
local first_guard = first_delete + 3 * deletes

local function history_of(subject)
    if subject <= puts then
        return KEYS[FIXED + 4 * (subject - 1) + 2]
    end
    subject = subject - puts
    if subject <= deletes then
        return KEYS[first_delete + 3 * (subject - 1) + 2]
    end
    return KEYS[first_guard + subject - deletes]
end

-- The newest line of a key's history, and what it says.
local function newest(history)
    local line = redis.call('ZRANGE', history, '-1', '-1')[1]
    if not line then
        return nil
    end
    local version, at, state = string.match(line, '^(%d+) (%S+) %- %- (%a+)\n')
    return {line = line, version = version, at = at, alive = state == 'live',
        content = string.match(line, '"content":"(%x+)"'), size = tonumber(string.match(line, '"size":(%d+)') or 0)}
end

-- The line of the value that a tombstone hides, where its bytes are still in their place.
local function hidden_by(history)
    local line = redis.call('ZRANGE', history, '-2', '-2')[1]
    return line and string.match(line, '^%d+ %S+ %- %- live\n') and line
end

local refused = false
if ARGV[3] ~= '' then
    local horizon = math.max(tonumber(now) - tonumber(head[6]), tonumber(head[8]))
    refused = tonumber(ARGV[3]) <= horizon
end
local subjects = {}
local first_key = first_put + 5 * puts
local at = first_key + deletes
for i = 1, wanted do
    local here = newest(history_of(tonumber(ARGV[at + 1])))
    local version, content, since = '0', false, false
    if here and here.alive then
        version, content = here.version, here.content
    elseif here then
        since = here.version
    end
    if (ARGV[at + 2] ~= '' and ARGV[at + 2] ~= '=' .. version)
        or (ARGV[at + 3] ~= '' and ARGV[at + 3] ~= '=' .. head[1])
        or (ARGV[at + 4] ~= '' and (not content or ARGV[at + 4] ~= '=' .. content)) then
        refused = true
    end
    subjects[i] = {version, content, since}
    at = at + 4
end
if refused then
    return {'refused', now, head, subjects}
end

local keys, tombstones, bytes = tonumber(head[12]), tonumber(head[13]), tonumber(head[14])
if redis.call('ZCARD', KEYS[2]) ~= keys then
    return {'damaged', 'its index of keys has lost some of them'}
end
if redis.call('ZCARD', KEYS[3]) ~= tombstones then
    return {'damaged', 'its index of tombstones has lost some of them'}
end
for i = 4, 11 do
    if i ~= 9 then
        redis.call('ZCARD', KEYS[i]) -- an error here, if it is of a foreign type, and not half-way
    end
end
if tonumber(redis.call('ZREVRANGE', KEYS[7], '0', '0', 'WITHSCORES')[2] or '0') > tonumber(head[2]) then
    return {'damaged', 'its log is ahead of its head'}
end

-- What is there of each update; a value that was evicted has its history, but no bytes to keep.
local there = {}
for i = 1, puts + deletes do
    local base = i <= puts and FIXED + 4 * (i - 1) or first_delete + 3 * (i - puts - 1)
    local here = newest(KEYS[base + 2])
    local stored = redis.call('STRLEN', KEYS[base + 1]) > 0
    local key = i <= puts and ARGV[first_put + 5 * (i - 1) + 1] or ARGV[first_key + i - puts]
    local hidden = here and not here.alive and hidden_by(KEYS[base + 2])
    if (stored and not (here and (here.alive or hidden))) or (here and not here.version) then
        return {'damaged', 'the history of key ' .. key .. ' does not fit its value'}
    end
    if i <= puts then
        local value = ARGV[first_put + 5 * (i - 1) + 5]
        local length = value ~= '' and #value or redis.call('STRLEN', KEYS[base + 4])
        if length ~= tonumber(ARGV[first_put + 5 * (i - 1) + 2]) then
            return {'unstaged', key}
        end
    end
    there[i] = here or {}
    there[i].stored = stored
    there[i].hidden = hidden
    there[i].base = base
    there[i].key = key
end

-- Changes of the namespace's own sets are gathered, and made many at a time.
local function each_500(command, name, words)
    local sum = 0
    for first = 1, #words, 500 do
        sum = sum + redis.call(command, name, unpack(words, first, math.min(first + 499, #words)))
    end
    return sum
end
local live_keys, dead_keys, tombs, revived, superseded, bodiless = {}, {}, {}, {}, {}, {}

local function push(words, score, member)
    words[#words + 1] = score
    words[#words + 1] = member
end

local version = string.format('%.0f', tonumber(head[2]) + 1)

-- The first write can still be refused, where memory is full.
redis.call('ZADD', KEYS[7], version, ARGV[2])

-- Close a line of a history: what it tells of has ended.
local function close(history, line, ended, at, where)
    local closed = string.gsub(line, '^(%d+ %S+) %- %- %a+\n', '%1 ' .. ended .. ' ' .. at .. ' ' .. where .. '\n')
    redis.call('ZREM', history, line)
    redis.call('ZADD', history, string.match(line, '^%d+'), closed)
end

-- Take a value's bytes out of the way; its line is closed with when it ended.
local function put_aside(here, line, ended, at)
    redis.call('ZINCRBY', KEYS[6], 1, here.key)
    push(superseded, at, string.match(line, '^%d+') .. ' ' .. here.key)
    if here.stored then
        redis.call('RENAME', KEYS[here.base + 1], KEYS[here.base + 3])
        redis.call('PERSIST', KEYS[here.base + 3])
    end
    close(KEYS[here.base + 2], line, ended, at, ARGV[7])
end

-- The same for one whose grace is over: nothing is kept of it, whether its bytes have expired yet or not.
local function let_go(here, line, ended, at)
    push(bodiless, at, string.match(line, '^%d+') .. ' ' .. here.key)
    if here.stored then
        redis.call('RENAME', KEYS[here.base + 1], KEYS[here.base + 3])
        redis.call('PEXPIRE', KEYS[here.base + 3], LATER_MS)
    end
    close(KEYS[here.base + 2], line, ended, at, 'gone')
end

-- Make room for a new value of a key.
local function displace(here)
    if here.alive then
        bytes = bytes - here.size
        put_aside(here, here.line, version, now)
        return
    end
    if here.hidden then
        local deadline = string.match(here.line, '"until":([%d.]+)')
        if deadline and tonumber(deadline) <= tonumber(now) then
            let_go(here, here.hidden, here.version, here.at)
        else
            put_aside(here, here.hidden, here.version, here.at)
        end
    end
    push(bodiless, now, here.version .. ' ' .. here.key)
    revived[#revived + 1] = here.key
    close(KEYS[here.base + 2], here.line, version, now, 'gone')
end

for i = 1, puts do
    local here = there[i]
    local live, history, stage = KEYS[here.base + 1], KEYS[here.base + 2], KEYS[here.base + 4]
    local a = first_put + 5 * (i - 1)
    local size, about, verdict, value = ARGV[a + 2], ARGV[a + 3], ARGV[a + 4], ARGV[a + 5]
    if here.line then
        displace(here)
    end
    if value ~= '' then
        redis.call('SET', live, value)
    else
        redis.call('RENAME', stage, live)
        redis.call('PERSIST', live)
    end
    redis.call('ZADD', history, version, version .. ' ' .. now .. ' - - live\n' .. about .. '\n' .. verdict)
    push(live_keys, 0, here.key)
    bytes = bytes + tonumber(size)
end

local noops = {}
local deadline = ''
if ARGV[11] ~= '' then
    deadline = string.format(',"until":%.6f', tonumber(now) + tonumber(ARGV[11]))
end
local tomb = version .. ' ' .. now .. ' - - tomb\n{"commit":"' .. ARGV[2] .. '"' .. deadline .. '}\n'
for i = puts + 1, puts + deletes do
    local here = there[i]
    if here.alive then
        redis.call('ZADD', KEYS[here.base + 2], version, tomb)
        bytes = bytes - here.size
        dead_keys[#dead_keys + 1] = here.key
        push(tombs, 0, here.key)
    else
        noops[#noops + 1] = tostring(i - puts)
    end
end

keys = keys + each_500('ZADD', KEYS[2], live_keys) - each_500('ZREM', KEYS[2], dead_keys)
tombstones = tombstones + each_500('ZADD', KEYS[3], tombs) - each_500('ZREM', KEYS[3], revived)
each_500('ZADD', KEYS[4], superseded)
each_500('ZADD', KEYS[5], bodiless)

if #tombs > 0 then
    local delete_batch = version .. ' ' .. ARGV[7]
    for i = 13, first_put do
        redis.call('RPUSH', KEYS[12], ARGV[i])
    end
    if deadline == '' then
        redis.call('ZADD', KEYS[10], now, delete_batch)
    else
        redis.call('ZADD', KEYS[11], string.match(deadline, '[%d.]+'), delete_batch)
    end
end

-- The server was replaced behind the head's last commit: what was acknowledged in between is lost, and its
-- versions are given again. Not so where the same process goes on, which takes a new id for its first replica, nor
-- where the same server began anew with every write on its disk; a replica that takes over keeps its old id beside.
if replid and (seen[1] ~= replid or seen[2] ~= ARGV[6]) then
    local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
    local on_disk = seen[2] == 'fsync' and ARGV[6] == 'fsync'
    local took_over = string.find(told, 'master_replid2:%x*[1-9a-f]') or not (seen[3] == run_id or on_disk)
    if seen[1] and seen[1] ~= replid and took_over then
        redis.call('HSETNX', KEYS[1], 'replaced_behind', head[2])
        redis.call('HSET', KEYS[1], 'replaced_at', now)
    end
    redis.call('HSET', KEYS[1], 'replid', replid, 'durability', ARGV[6], 'run_id', run_id)
end

local absent = table.concat(noops, ' ')
redis.call('HSET', KEYS[1], 'version', version, 'keys', string.format('%.0f', keys),
    'tombstones', string.format('%.0f', tombstones), 'bytes', string.format('%.0f', bytes))
redis.call('HSET', KEYS[9], 'identity', ARGV[4], 'version', version, 'at', now, 'incarnation', head[1],
    'detail', ARGV[5], 'noops', absent, 'durability', ARGV[6])
local forget = now
if ARGV[3] ~= '' and tonumber(ARGV[3]) > tonumber(now) then
    forget = ARGV[3]
end
redis.call('ZADD', KEYS[8], forget, ARGV[2])
return {'done', version, now, head[1], absent}

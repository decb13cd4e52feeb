-- One commit. Everything is checked first; what is written after that cannot fail, and frees no payload.
--
-- KEYS  1 head  2 keys  3 deleted  4 tombstones  5 superseded  6 bare  7 kept  8 log  9 records  10 outbox
--       11 commit:ID
--       for each put: live, history, old, stage;  each delete: live, history, old;  each guard: history
-- ARGV  1 layout this writer knows  2 commit id  3 time inside the id, or ''  4 identity  5 detail
--       6 durability  7 token of `old`  8 number of puts  9 of deletes  10 of expectations
--       for each put: key, size, about, verdict, and the value, or '' where it lies under its name `stage`;
--       each delete: key;
--       each expectation: number of its subject (puts, deletes, guards, counted through), then version,
--       incarnation and content, each '=' and what is expected, or '' for anything
-- Reply {'done', version, time, incarnation, no-ops}, or, with nothing written: {'missing'}, {'newer', head},
--       {'damaged', what}, {'known', record}, {'refused', time, head, subject...}, {'unstaged', key}
--
-- A subject is {version, content, since}: its live version ('0': none) and content, or since when it is deleted.

local FIXED = 11

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

local record = redis.call('HMGET', KEYS[11], 'identity', 'version', 'at', 'incarnation', 'detail', 'noops',
    'durability')
if record[3] then
    return {'known', record}
end

local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', tonumber(time[2]))
local puts, deletes, wanted = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
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
    local line = redis.call('ZRANGE', history, -1, -1)[1]
    if not line then
        return nil
    end
    local version, state = string.match(line, '^(%d+) %S+ %- %- (%a+)\n')
    return {line = line, version = version, alive = state == 'live', content = string.match(line, '"content":"(%x+)"'),
        size = tonumber(string.match(line, '"size":(%d+)') or 0)}
end

local refused = false
if ARGV[3] ~= '' then
    local horizon = math.max(tonumber(now) - tonumber(head[6]), tonumber(head[8]))
    refused = tonumber(ARGV[3]) <= horizon
end
local subjects = {}
local first_key = 10 + 5 * puts
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
for i = 4, 9 do
    redis.call('ZCARD', KEYS[i]) -- an error here, if it is of a foreign type, and not half-way
end

-- What is there of each update; a value that was evicted has its history, but no bytes to keep.
local there = {}
for i = 1, puts + deletes do
    local base = i <= puts and FIXED + 4 * (i - 1) or first_delete + 3 * (i - puts - 1)
    local here = newest(KEYS[base + 2])
    local stored = redis.call('STRLEN', KEYS[base + 1]) > 0
    local key = i <= puts and ARGV[10 + 5 * (i - 1) + 1] or ARGV[first_key + i - puts]
    if (stored and not (here and here.alive)) or (here and not here.version) then
        return {'damaged', 'the history of key ' .. key .. ' does not fit its value'}
    end
    if i <= puts then
        local value = ARGV[10 + 5 * (i - 1) + 5]
        local length = value ~= '' and #value or redis.call('STRLEN', KEYS[base + 4])
        if length ~= tonumber(ARGV[10 + 5 * (i - 1) + 2]) then
            return {'unstaged', key}
        end
    end
    there[i] = here or {}
    there[i].stored = stored
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
local live_keys, dead_keys, tombs, revived, superseded, bare = {}, {}, {}, {}, {}, {}

local function push(words, score, member)
    words[#words + 1] = score
    words[#words + 1] = member
end

local version = string.format('%.0f', tonumber(head[2]) + 1)

-- The first write can still be refused: where memory is full, or where the outbox is ahead of the head.
redis.call('XADD', KEYS[10], version .. '-0', 'commit', ARGV[2], 'incarnation', head[1], 'at', now)

-- Take what is there out of the way, and close its line in the history.
local function displace(here)
    local live, history, old = KEYS[here.base + 1], KEYS[here.base + 2], KEYS[here.base + 3]
    local member = here.version .. ' ' .. here.key
    local where = 'gone'
    if here.alive then
        where = ARGV[7]
        bytes = bytes - here.size
        push(superseded, now, member)
        redis.call('ZINCRBY', KEYS[7], 1, here.key)
        if here.stored then
            redis.call('RENAME', live, old)
        end
    else
        push(bare, now, member)
        revived[#revived + 1] = here.key
    end
    local line = string.gsub(here.line, '^(%d+ %S+) %- %- %a+\n', '%1 ' .. version .. ' ' .. now .. ' ' .. where .. '\n')
    redis.call('ZREM', history, here.line)
    redis.call('ZADD', history, here.version, line)
end

for i = 1, puts do
    local here = there[i]
    local live, history, stage = KEYS[here.base + 1], KEYS[here.base + 2], KEYS[here.base + 4]
    local a = 10 + 5 * (i - 1)
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
for i = puts + 1, puts + deletes do
    local here = there[i]
    if here.alive then
        displace(here)
        redis.call('ZADD', KEYS[here.base + 2], version,
            version .. ' ' .. now .. ' - - tomb\n{"commit":"' .. ARGV[2] .. '"}\n')
        dead_keys[#dead_keys + 1] = here.key
        push(tombs, 0, here.key)
    else
        noops[#noops + 1] = tostring(i - puts)
    end
end

keys = keys + each_500('ZADD', KEYS[2], live_keys) - each_500('ZREM', KEYS[2], dead_keys)
tombstones = tombstones + each_500('ZADD', KEYS[3], tombs) - each_500('ZREM', KEYS[3], revived)
for i = 1, #tombs, 2 do
    tombs[i] = now
end
each_500('ZADD', KEYS[4], tombs)
each_500('ZREM', KEYS[4], revived)
each_500('ZADD', KEYS[5], superseded)
each_500('ZADD', KEYS[6], bare)

local absent = table.concat(noops, ' ')
redis.call('HSET', KEYS[1], 'version', version, 'keys', string.format('%.0f', keys),
    'tombstones', string.format('%.0f', tombstones), 'bytes', string.format('%.0f', bytes))
redis.call('HSET', KEYS[11], 'identity', ARGV[4], 'version', version, 'at', now, 'incarnation', head[1],
    'detail', ARGV[5], 'noops', absent, 'durability', ARGV[6])
redis.call('ZADD', KEYS[8], version, ARGV[2])
local forget = now
if ARGV[3] ~= '' and tonumber(ARGV[3]) > tonumber(now) then
    forget = ARGV[3]
end
redis.call('ZADD', KEYS[9], forget, ARGV[2])
return {'done', version, now, head[1], absent}

-- Write and delete notes, all or none. Large ones lie under their name `stage` already.
--
-- KEYS  1 head  2 notes  3 noted, then for each change: note, stage, trash
-- ARGV  1 layout this writer knows  2 milliseconds until trash vanishes by itself  3 number of changes
--       for each change: name, size and digest as they will stand in `noted` (or '' to delete it), and the
--       data, or '' where it is staged;
--       for each expectation: name, version
-- Reply {'done', {new version of each, 0 where it is deleted}, {numbers of those with something in trash}}, or,
--       with nothing written: {'missing'}, {'newer', head}, {'conflict', {version of each expectation's note}},
--       {'unstaged', name}

local SMALL = 65536 -- what is freed at once, and not renamed out of the way

local head = redis.call('HMGET', KEYS[1], 'incarnation', 'version', 'created_at', 'versions', 'seconds',
    'record_seconds', 'floor', 'records_removed_until', 'layout', 'least_reader', 'least_writer')
if not head[1] then
    return {'missing'}
end
if tonumber(head[11]) > tonumber(ARGV[1]) then
    return {'newer', head}
end

-- The version and the size of a note that is there; 0 and 0 of one that is not.
local function noted(name)
    local facts = redis.call('HGET', KEYS[3], name)
    if not facts then
        return 0, 0
    end
    local version, size = string.match(facts, '^(%d+) %S+ (%d+) ')
    return tonumber(version), tonumber(size)
end

local changes = tonumber(ARGV[3])
local found, conflict = {}, false
for i = 4 + 3 * changes, #ARGV, 2 do
    local version = noted(ARGV[i])
    found[#found + 1] = string.format('%.0f', version)
    conflict = conflict or version ~= tonumber(ARGV[i + 1])
end
if conflict then
    return {'conflict', found}
end
redis.call('ZCARD', KEYS[2]) -- an error here, if it is of a foreign type, and not half-way
local before, sizes = {}, {}
for i = 1, changes do
    local name, facts, data = ARGV[1 + 3 * i], ARGV[2 + 3 * i], ARGV[3 + 3 * i]
    before[i], sizes[i] = noted(name)
    redis.call('STRLEN', KEYS[1 + 3 * i])
    local size = tonumber(string.match(facts, '^%d+') or 0)
    if size > 0 and data == '' and redis.call('STRLEN', KEYS[2 + 3 * i]) ~= size then
        return {'unstaged', name}
    end
end

local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', tonumber(time[2]))
local versions, trashed = {}, {}

-- What is written comes first, as a full server refuses it; deletes alone are what makes room.
for i = 1, changes do
    versions[i] = '0'
    if ARGV[2 + 3 * i] ~= '' then
        versions[i] = string.format('%.0f', before[i] + 1)
        redis.call('HSET', KEYS[3], ARGV[1 + 3 * i], versions[i] .. ' ' .. now .. ' ' .. ARGV[2 + 3 * i])
    end
end
for i = 1, changes do
    local name, facts, data = ARGV[1 + 3 * i], ARGV[2 + 3 * i], ARGV[3 + 3 * i]
    local note, stage, trash = KEYS[1 + 3 * i], KEYS[2 + 3 * i], KEYS[3 + 3 * i]
    if facts == '' then
        redis.call('HDEL', KEYS[3], name)
        redis.call('ZREM', KEYS[2], name)
    end
    if sizes[i] > SMALL and redis.call('EXISTS', note) == 1 then
        redis.call('RENAME', note, trash)
        redis.call('PEXPIRE', trash, ARGV[2])
        trashed[#trashed + 1] = string.format('%.0f', i)
    elseif facts == '' then
        redis.call('DEL', note)
    end
    if facts ~= '' then
        if data == '' and string.match(facts, '^0 ') == nil then
            redis.call('RENAME', stage, note)
            redis.call('PERSIST', note)
        else
            redis.call('SET', note, data)
        end
        redis.call('ZADD', KEYS[2], 0, name)
    end
end
return {'done', versions, trashed}

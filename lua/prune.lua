-- Take the bytes of superseded values away. They are freed later, one by one: see `trash` in the layout.
--
-- KEYS  1 head  2 superseded  3 bodiless  4 version_counts, then for each value: history, old or live, trash
-- ARGV  1 milliseconds until trash vanishes by itself, then for each value: key, version, and the token of `old`,
--       or, for one whose bytes are still in their place, the version of the tombstone that hides it behind a `-`
-- Reply nil where there is no head, or for each value: 1, or 0 where it was gone already

if redis.call('EXISTS', KEYS[1]) == 0 then
    return nil
end
for i = 2, 4 do
    redis.call('ZCARD', KEYS[i])
end

-- The line of a value as it will stand, and when the value ended; nil where it is not there any more.
local function closed(history, line, version, where)
    if string.sub(where, 1, 1) ~= '-' then
        local ended, token = string.match(line, '^%d+ %S+ %S+ (%S+) (%S+)\n')
        return token == where and string.gsub(line, ' ' .. where .. '\n', ' gone\n', 1), ended
    end
    local tomb = redis.call('ZRANGE', history, '-1', '-1')[1]
    local hidden = string.match(line, '^%d+ %S+ %- %- live\n')
    local since, at = string.match(tomb, '^(%d+) (%S+) %- %- tomb\n')
    if not hidden or '-' .. (since or '') ~= where then
        return nil
    end
    return string.gsub(line, ' %- %- live\n', ' ' .. since .. ' ' .. at .. ' gone\n', 1), at
end

local done = {}
for i = 1, (#ARGV - 1) / 3 do
    local history, place, trash = KEYS[4 + 3 * (i - 1) + 1], KEYS[4 + 3 * (i - 1) + 2], KEYS[4 + 3 * (i - 1) + 3]
    local key, version, where = ARGV[1 + 3 * (i - 1) + 1], ARGV[1 + 3 * (i - 1) + 2], ARGV[1 + 3 * (i - 1) + 3]
    local line = redis.call('ZRANGEBYSCORE', history, version, version)[1]
    local gone, ended
    if line then
        gone, ended = closed(history, line, version, where)
    end
    done[i] = 0
    if gone then
        -- The first write is one that is allowed while memory is full: this is how room is made.
        redis.call('ZREM', history, line)
        redis.call('ZADD', history, version, gone)
        if redis.call('EXISTS', place) == 1 then
            redis.call('RENAME', place, trash)
            redis.call('PEXPIRE', trash, ARGV[1])
        end
        redis.call('ZADD', KEYS[3], ended, version .. ' ' .. key)
        if string.sub(where, 1, 1) ~= '-' then
            redis.call('ZREM', KEYS[2], version .. ' ' .. key)
            if tonumber(redis.call('ZINCRBY', KEYS[4], -1, key)) <= 0 then
                redis.call('ZREM', KEYS[4], key)
            end
        end
        done[i] = 1
    end
end
return done

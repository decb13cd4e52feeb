-- Remove entries of histories that have no bytes, and tombstones over which nothing else is left.
--
-- KEYS  1 head  2 deleted  3 bodiless, then the history of each entry, then of each tombstone
-- ARGV  1 number of entries, then for each entry and each tombstone: key, version
-- Reply nil where there is no head, or for each: 1, or 0 where it was gone already or is not what it was

local floor = tonumber(redis.call('HGET', KEYS[1], 'floor') or -1)
if floor < 0 then
    return nil
end
for i = 2, 3 do
    redis.call('ZCARD', KEYS[i])
end
local done, changed = {}, false
for i = 1, (#ARGV - 1) / 2 do
    local history, key, version = KEYS[3 + i], ARGV[2 * i], ARGV[2 * i + 1]
    local line = redis.call('ZRANGEBYSCORE', history, version, version)[1]
    local ended, where
    if line then
        ended, where = string.match(line, '^%d+ %S+ (%S+) %S+ (%S+)\n')
    end
    done[i] = 0
    if i <= tonumber(ARGV[1]) then
        if where == 'gone' then
            redis.call('ZREM', history, line)
            redis.call('ZREM', KEYS[3], version .. ' ' .. key)
            floor = math.max(floor, tonumber(ended))
            done[i], changed = 1, true
        end
    elseif where == 'tomb' and redis.call('ZCARD', history) == 1 then
        redis.call('ZREM', history, line)
        redis.call('ZREM', KEYS[2], key)
        floor = math.max(floor, tonumber(version))
        done[i], changed = 1, true
    end
end
if changed then
    redis.call('HSET', KEYS[1], 'floor', string.format('%.0f', floor), 'tombstones', redis.call('ZCARD', KEYS[2]))
end
return done

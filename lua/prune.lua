-- Take the bytes of superseded values away. They are freed later, one by one: see `trash` in the layout.
--
-- KEYS  1 head  2 superseded  3 bare  4 kept, then for each value: history, old, trash
-- ARGV  1 milliseconds until trash vanishes by itself, then for each value: key, version, token of `old`
-- Reply nil where there is no head, or for each value: 1, or 0 where it was gone already

if redis.call('EXISTS', KEYS[1]) == 0 then
    return nil
end
for i = 2, 4 do
    redis.call('ZCARD', KEYS[i])
end
local done = {}
for i = 1, (#ARGV - 1) / 3 do
    local history, old, trash = KEYS[4 + 3 * (i - 1) + 1], KEYS[4 + 3 * (i - 1) + 2], KEYS[4 + 3 * (i - 1) + 3]
    local key, version, token = ARGV[1 + 3 * (i - 1) + 1], ARGV[1 + 3 * (i - 1) + 2], ARGV[1 + 3 * (i - 1) + 3]
    local line = redis.call('ZRANGEBYSCORE', history, version, version)[1]
    local ended, where
    if line then
        ended, where = string.match(line, '^%d+ %S+ %S+ (%S+) (%S+)\n')
    end
    done[i] = 0
    if where == token then
        -- The first write is one that is allowed while memory is full: this is how room is made.
        redis.call('ZREM', history, line)
        redis.call('ZADD', history, version, (string.gsub(line, ' ' .. token .. '\n', ' gone\n', 1)))
        if redis.call('EXISTS', old) == 1 then
            redis.call('RENAME', old, trash)
            redis.call('PEXPIRE', trash, ARGV[1])
        end
        redis.call('ZREM', KEYS[2], version .. ' ' .. key)
        redis.call('ZADD', KEYS[3], ended, version .. ' ' .. key)
        if tonumber(redis.call('ZINCRBY', KEYS[4], -1, key)) <= 0 then
            redis.call('ZREM', KEYS[4], key)
        end
        done[i] = 1
    end
end
return done

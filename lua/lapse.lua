-- Let the bytes that tombstones hide expire, where nothing has been put over these since.
--
-- KEYS  1 head, then the `live` of each key, then either nothing or the history of each key
-- ARGV  1 version of the tombstones  2 when the bytes expire, in milliseconds since 1970
--       3 'told' where the histories are, or ''
-- Reply how many were found; 0 where the time has come already, since freeing them is not for a script; nil
--       where there were commits since, and no caller has said where the histories are: then each one must tell

local time = redis.call('TIME')
if tonumber(ARGV[2]) <= tonumber(time[1]) * 1000 + 1000 then
    return 0
end
local unchanged = redis.call('HGET', KEYS[1], 'version') == ARGV[1]
local count = #KEYS - 1
if ARGV[3] == 'told' then
    count = count / 2
elseif not unchanged then
    return nil
end
local found = 0
for i = 2, count + 1 do
    local hidden = unchanged
    if not hidden then
        local line = redis.call('ZRANGE', KEYS[count + i], '-1', '-1')[1] or ''
        hidden = string.match(line, '^%d+') == ARGV[1] and string.find(line, ' - - tomb\n', 1, true)
    end
    if hidden then
        found = found + redis.call('PEXPIREAT', KEYS[i], ARGV[2])
    end
end
return found

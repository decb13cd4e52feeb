-- Let the bytes that tombstones hide expire, where nothing has been put over these since.
--
-- KEYS  for each key: history, live
-- ARGV  1 version of the tombstones  2 when the bytes expire, in milliseconds since 1970
-- Reply how many were found; none where the time has come already, since freeing them is not for a script

local time = redis.call('TIME')
if tonumber(ARGV[2]) <= tonumber(time[1]) * 1000 + 1000 then
    return 0
end
local TOMB = ' - - tomb\n'
local found = 0
for i = 1, #KEYS, 2 do
    local line = redis.call('ZRANGE', KEYS[i], '-1', '-1')[1] or ''
    if string.match(line, '^%d+') == ARGV[1] and string.find(line, TOMB, 1, true) then
        found = found + redis.call('PEXPIREAT', KEYS[i + 1], ARGV[2])
    end
end
return found

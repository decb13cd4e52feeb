-- Write into the record of a commit how durable it turned out to be; never make a record.
--
-- KEYS  1 commit:ID
-- ARGV  1 version  2 incarnation  3 durability
-- Reply 1, or 0 with nothing written: this server does not hold that commit

local record = redis.call('HMGET', KEYS[1], 'version', 'incarnation')
if record[1] ~= ARGV[1] or record[2] ~= ARGV[2] then
    return 0
end
redis.call('HSET', KEYS[1], 'durability', ARGV[3])
return 1

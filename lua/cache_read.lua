-- What a cache holds under some keys, and the server's time, in one look that nothing can come between.
--
-- KEYS: the marker, then the entries.
-- ARGV: how many bytes of envelopes to send along, in all. A longer one is fetched apart: a script copies
--       what it returns, twice.
-- Returns {seconds, microseconds, marker or false, entry ...}; an entry is false where there is none, 0
-- where something else lies there, or {version, incarnation, content, filled_at, digest, commit_id,
-- committed_at, verdict, seal, size, envelope or false}.

local room = tonumber(ARGV[1])

local function entry(key)
  local kind = redis.call('TYPE', key).ok
  if kind == 'none' then
    return false
  end
  if kind ~= 'hash' then
    return 0
  end
  local fields = redis.call('HMGET', key, 'version', 'incarnation', 'content', 'filled_at', 'digest',
    'commit_id', 'committed_at', 'verdict', 'seal')
  for i = 1, 9 do
    if not fields[i] then
      return 0
    end
  end
  local size = redis.call('HSTRLEN', key, 'envelope')
  fields[10] = size
  fields[11] = false
  if size <= room then
    room = room - size
    fields[11] = redis.call('HGET', key, 'envelope')
  end
  return fields
end

local marker = false
if redis.call('TYPE', KEYS[1]).ok == 'string' then
  marker = redis.call('GET', KEYS[1])
end
local time = redis.call('TIME')
local found = {time[1], time[2], marker}
for i = 2, #KEYS do
  found[i + 2] = entry(KEYS[i])
end
return found

-- Compare-and-set of a cache's marker, which names the incarnation that may be served.
--
-- KEYS: the marker. ARGV: what must be there ('' for nothing), what to set, and for how long (ms).
-- Returns 1, or 0 where something else is there.

local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then
  if ARGV[1] ~= '' then
    return 0
  end
elseif kind ~= 'string' or redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1

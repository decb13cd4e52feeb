-- Put small values under names of their own, where they vanish again unless a commit takes them.
--
-- KEYS  the names
-- ARGV  1 milliseconds until they vanish, then one value for each name
-- Reply how many

for i, name in ipairs(KEYS) do
    redis.call('SET', name, ARGV[i + 1], 'PX', ARGV[1])
end
return #KEYS

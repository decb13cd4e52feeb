-- Move entries out of the way, each only if it is still what was found.
--
-- KEYS: for each entry its name and a name to move it to.
-- ARGV: for each entry version, incarnation, content and filled_at as they were found; four empty ones for
--       something that was no entry; four '*' for whatever is there.
-- Returns 1 or 0 for each. It frees nothing: see cache_put.

local TRASH_MS = 60000

local function is_still(key, at)
  if ARGV[at] == '*' then
    return true
  end
  local fields = {}
  if redis.call('TYPE', key).ok == 'hash' then
    fields = redis.call('HMGET', key, 'version', 'incarnation', 'content', 'filled_at', 'digest',
      'commit_id', 'committed_at', 'verdict', 'seal')
  end
  local whole = true
  for i = 1, 9 do
    whole = whole and fields[i]
  end
  if ARGV[at] == '' then
    return not whole
  end
  for i = 1, 4 do
    if fields[i] ~= ARGV[at + i - 1] then
      return false
    end
  end
  return true
end

local moved = {}
for i = 1, #KEYS, 2 do
  local gone = 0
  if redis.call('EXISTS', KEYS[i]) == 1 and is_still(KEYS[i], (i - 1) * 2 + 1) then
    redis.call('RENAME', KEYS[i], KEYS[i + 1])
    redis.call('PEXPIRE', KEYS[i + 1], TRASH_MS)
    gone = 1
  end
  moved[#moved + 1] = gone
end
return moved

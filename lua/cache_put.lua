-- Swing staged entries in, each only if it is newer than what is there. All of it is checked here, in one
-- step, so that no pause of a client and no order of arrival can put an older state over a newer one.
--
-- KEYS: the marker, then for each entry its name, its staged hash, and a name for what it displaces.
-- ARGV: the incarnation; how long the marker lives (ms); how long a tombstone lives (ms); then for each
--       entry its version, its content digest ('' for a tombstone), when the authority was asked
--       (microseconds), and when its time is up (ms).
-- Returns {refusal} where the cache does not serve that incarnation: 'unmarked', 'blocked' or 'foreign';
-- else {'ok', outcome ...}: 'stored', 'same', 'older', 'late', 'lost'. It frees nothing: the client
-- unlinks what was displaced and what was not taken, since freeing a large value takes time.

local TRASH_MS = 60000

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local incarnation = ARGV[1]
local marker_ms = tonumber(ARGV[2])
local tombstone_ms = tonumber(ARGV[3])

local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then
  return {'unmarked'}
end
if kind ~= 'string' then
  return {'foreign'}
end
local marker = redis.call('GET', KEYS[1])
if marker ~= incarnation then
  local first = string.sub(marker, 1, 1)
  return {(first == '!' or first == '?') and 'blocked' or 'foreign'}
end
if redis.call('PTTL', KEYS[1]) < marker_ms then
  redis.call('PEXPIRE', KEYS[1], marker_ms)
end

local function prolong(key, expires)
  if expires > now + redis.call('PTTL', key) then
    redis.call('PEXPIREAT', key, string.format('%.0f', expires))
  end
end

-- Version and content are there already. A value is then as young as this answer of the authority; a
-- tombstone is no answer about the value of its version, so it makes none younger.
local function same(key, content, there, filled_at, expires)
  if content == there then
    if content ~= '' and tonumber(filled_at) > (tonumber(redis.call('HGET', key, 'filled_at')) or 0) then
      redis.call('HSET', key, 'filled_at', filled_at)
    end
    prolong(key, expires)
  end
  return 'same'
end

local function put(key, staged, trash, version, content, filled_at, expires)
  local tombstone = content == ''
  if tombstone then
    expires = now + tombstone_ms
  elseif expires <= now then
    return 'late'
  end
  local there = redis.call('TYPE', key).ok
  if there == 'hash' then
    local old = redis.call('HMGET', key, 'version', 'incarnation', 'content')
    local old_version = tonumber(old[1])
    if old_version and old[2] == incarnation then
      if old_version > version then
        return 'older'
      end
      if old_version == version and (old[3] == content or tombstone) then
        return same(key, content, old[3], filled_at, expires)
      end
    end
  end
  if redis.call('EXISTS', staged) == 0 then
    return 'lost'
  end
  if there ~= 'none' then
    redis.call('RENAME', key, trash)
    redis.call('PEXPIRE', trash, TRASH_MS)
  end
  redis.call('RENAME', staged, key)
  redis.call('PEXPIREAT', key, string.format('%.0f', expires))
  return 'stored'
end

local outcomes = {'ok'}
for i = 2, #KEYS, 3 do
  local at = 4 + (i - 2) / 3 * 4
  outcomes[#outcomes + 1] = put(KEYS[i], KEYS[i + 1], KEYS[i + 2], tonumber(ARGV[at]), ARGV[at + 1],
    ARGV[at + 2], tonumber(ARGV[at + 3]))
end
return outcomes

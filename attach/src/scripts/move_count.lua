-- Moves a counter by a difference, if it still has the value that was seen, or has moved only as
-- ARGV[3] allows. Relative, never a SET: a claim that is refused gives back what it took, and a SET
-- between these two steps would sell one coupon too many. INCRBY keeps the key's expiry, and creates
-- the key if it was missing.
--
-- KEYS[1]  the counter, or the hash that holds it
-- ARGV[1]  the field of the hash, or ""
-- ARGV[2]  the value that was seen, or "" if there was none
-- ARGV[3]  0: it must be the same; 1: it may also have risen; -1: it may also have fallen
-- ARGV[4]  the difference; for a missing counter, its value
-- Returns 1 if it was moved, 0 if it changed meanwhile.
local key, field, seen = KEYS[1], ARGV[1], ARGV[2]
local value
if field == '' then
  value = redis.call('GET', key)
else
  value = redis.call('HGET', key, field)
end
if (value or '') ~= seen then
  local now, before, may = tonumber(value or ''), tonumber(seen), tonumber(ARGV[3])
  if not now or not before or (now - before) * may <= 0 then return 0 end
end
if field == '' then
  redis.call('INCRBY', key, ARGV[4])
else
  redis.call('HINCRBY', key, field, ARGV[4])
end
return 1

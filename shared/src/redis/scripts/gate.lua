-- Changes a coupon's gate by compare-and-set: begins an era, which closes the coupon, or opens it.
-- KEYS  see identity.lua; to open: every unsealed drop of the coupon
-- ARGV  1 value of `gate` that the caller read ('' if it is missing)
--       2 the new value, `SERVER ERA closed` or `SERVER ERA open`  3.. ids of the drops in KEYS
-- Reply 'done' | 'stale': the gate has changed, or this is another server | id of a drop without
-- settings or whose numbers do not add up. Only `done` means that the gate has the new value.
-- A value of another type counts as missing.
local seen, new, found = ARGV[1], ARGV[2], redis.pcall('GET', KEYS[1])
if type(found) ~= 'string' then found = '' end
if not is_here(new) then return 'stale' end
if found ~= seen then return found == new and string.sub(new, -5) == ' open' and 'done' or 'stale' end
for i = 3, #ARGV do
    local meta, count, users, free = unpack(KEYS, 6 * i - 11, 6 * i - 8)
    local sum = redis.call('ZCARD', users) + redis.call('ZCARD', free)
    if redis.call('EXISTS', meta) == 0 or tonumber(redis.call('GET', count)) ~= sum then return ARGV[i] end
end
-- By this field, scripts notice the loss of a whole key, without which they would not know who is
-- revoked, or who holds a slot of another day.
if string.sub(new, -5) == ' open' then
    redis.call('HSET', KEYS[3], '', 0)
    redis.call('HSETNX', KEYS[4], '', 0)
end
redis.call('SET', KEYS[1], new)
return 'done'

-- Writes a loaded drop's settings in one revision of its coupon. The revision is a fencing token: an
-- older one than the last seen changes nothing, so a delayed write can't undo a later one. The token
-- is stored for the coupon, not in `meta`, so that it also keeps an old writer from loading a drop
-- that was not loaded when a newer writer came.
-- KEYS  1 meta  2 revision
-- ARGV  1 revision  2.. field, value pairs of meta
-- Reply ok | unloaded | outdated
-- A value of the revision's key that Firstcome did not write counts as missing, whatever its type.
local text = redis.pcall('GET', KEYS[2])
local seen = type(text) == 'string' and #text <= 15 and string.match(text, '^%d+$') and tonumber(text) or 0
if tonumber(ARGV[1]) < seen then return 'outdated' end
local loaded = redis.call('EXISTS', KEYS[1]) == 1
redis.call('SET', KEYS[2], ARGV[1])
if not loaded then return 'unloaded' end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 'ok'

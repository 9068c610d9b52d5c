-- Writes a loaded drop's settings as one revision of its coupon has them. The revision is a fencing
-- token: one that is older than any seen before changes nothing, so a write that was held up can't
-- undo a later one. The token is remembered for the coupon and not in `meta`, so that it also keeps
-- an old writer from loading a drop that was not loaded when a newer one came by.
-- KEYS  1 meta  2 revision
-- ARGV  1 revision  2.. field, value pairs of meta
-- Reply ok | unloaded | outdated
-- What no program of ours wrote there counts as never seen, whatever its type.
local text = redis.pcall('GET', KEYS[2])
local seen = type(text) == 'string' and #text <= 15 and string.match(text, '^%d+$') and tonumber(text) or 0
if tonumber(ARGV[1]) < seen then return 'outdated' end
local loaded = redis.call('EXISTS', KEYS[1]) == 1
redis.call('SET', KEYS[2], ARGV[1])
if not loaded then return 'unloaded' end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 'ok'

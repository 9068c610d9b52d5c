-- Makes a drop known to admission, if it isn't. Refuses when the coupon's era is not the one that the
-- caller read before it looked at anything else: Redis may have lost data since, and what the caller
-- believes of this drop may be wrong. Refuses as well when a newer revision of the coupon was seen
-- (`write_meta.lua`): its settings have changed since the caller read them.
-- KEYS  1 meta  2 count  3 gate  4 revision  5 claimants  6 revoked  7 allowed  8 allow_list  9 version
-- ARGV  1 era as `SERVER ERA`  2 revision  3.. field, value pairs of meta
-- Reply loaded | present | stale | outdated
if not is_in_era(KEYS[3], ARGV[1]) then return 'stale' end
-- What no program of ours wrote there counts as never seen, whatever its type.
local text = redis.pcall('GET', KEYS[4])
local seen = type(text) == 'string' and #text <= 15 and string.match(text, '^%d+$') and tonumber(text) or 0
redis.call('EXISTS', KEYS[2])
if redis.call('EXISTS', KEYS[1]) == 1 then return 'present' end
if tonumber(ARGV[2]) < seen then return 'outdated' end
-- The coupon may have been over, and its own keys about to expire.
for _, i in ipairs({3, 5, 6, 7, 8, 9}) do redis.call('PERSIST', KEYS[i]) end
redis.call('SET', KEYS[4], ARGV[2])
redis.call('SET', KEYS[2], 0, 'NX')
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
count_change(KEYS[9])
return 'loaded'

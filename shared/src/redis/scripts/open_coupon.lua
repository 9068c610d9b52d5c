-- Opens a coupon that was verified in an epoch, unless its keys were lost since the caller read
-- their generation.
-- KEYS  1 verified  2 generation
-- ARGV  1 generation  2 epoch
-- Reply 1 done | 0 stale
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1

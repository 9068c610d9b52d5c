-- Makes a drop known to admission, if it isn't. Refuses when the coupon's generation is not the one the caller saw before it
-- looked at anything else: Redis was emptied since, and what the caller believes of this drop may be wrong.
-- KEYS  1 meta  2 count  3 generation
-- ARGV  1 generation  2.. field, value pairs of meta
-- Reply loaded | present | stale
if redis.call('GET', KEYS[3]) ~= ARGV[1] then return 'stale' end
redis.call('EXISTS', KEYS[2])
if redis.call('EXISTS', KEYS[1]) == 1 then return 'present' end
redis.call('SET', KEYS[2], 0, 'NX')
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 'loaded'

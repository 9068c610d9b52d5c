-- The coupon's generation, made now where it has none.
-- KEYS  1 generation
-- ARGV  1 a fresh one
-- Reply: what stands there now
-- What no program of ours wrote there counts as nothing, whatever its type.
local found = redis.pcall('GET', KEYS[1])
if type(found) == 'string' then return found end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]

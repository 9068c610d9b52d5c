-- Compare-and-set of the epoch, so that two reconcilers agree on one.
-- KEYS  1 epoch
-- ARGV  1 what the caller saw there ('' for nothing)  2 what is to stand there
-- Reply: what stands there now
-- What no program of ours wrote there counts as nothing, whatever its type.
local found = redis.pcall('GET', KEYS[1])
if type(found) ~= 'string' then found = '' end
if found ~= ARGV[1] then return found end
redis.call('SET', KEYS[1], ARGV[2])
return ARGV[2]

-- Begins an era of a coupon, which closes it: the reconciler rebuilds it next, or an API has just made it.
-- KEYS  1 gate  2 verified (bridge.rs: programs of older releases admit by it)  3 version
-- ARGV  1 what the caller saw under `gate` ('' for nothing)  2 `SERVER ERA` of the new era
-- Reply 1 begun | 0 the gate has changed, or this is another server
-- What no program of ours wrote there counts as nothing, whatever its type.
local found, server = redis.pcall('GET', KEYS[1]), identity()
if type(found) ~= 'string' then found = '' end
if found ~= ARGV[1] or not server or string.sub(ARGV[2], 1, #server + 1) ~= server .. ' ' then return 0 end
redis.call('DEL', KEYS[2], KEYS[3])
redis.call('SET', KEYS[1], ARGV[2] .. ' closed')
return 1

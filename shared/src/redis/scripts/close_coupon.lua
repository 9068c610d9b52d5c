-- Closes a coupon whose version went back, by taking its gate away: the reconciler finds it without an era and rebuilds it.
-- KEYS  1 gate  2 verified (bridge.rs)
-- ARGV  1 what the caller saw under `gate`
-- Reply 1 closed | 0 the gate has changed
local found = redis.pcall('GET', KEYS[1])
if type(found) == 'string' and found ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
return 1

-- Begins an era of a coupon, opens the coupon, or closes it.
-- KEYS  1 gate  2 verified (bridge.rs: programs of older releases admit by it)  3 version
-- ARGV  1 operation (below)  2 value of `gate` that the caller read ('' if it is missing)
--       3 `SERVER ERA` of the new era (begin)
--   begin  also closes the coupon: the reconciler is about to rebuild it, or an API has just created it.
--   open   after the coupon was compared in the era `SERVER ERA` of ARGV 2, which the caller read before the topic. Refuses if
--          the keys were lost since then.
--   close  deletes the gate, because the version went back: the reconciler finds the coupon without an era and rebuilds it.
-- Reply 1 done | 0 the gate has changed, or this is another server
-- A value that Firstcome did not write counts as missing, whatever its type.
local how, seen, fence = ARGV[1], ARGV[2], ARGV[3]
if how == 'open' then
    if not is_in_era(KEYS[1], seen) then return 0 end
    redis.call('SET', KEYS[1], seen .. ' open')
    return 1
end

local found = redis.pcall('GET', KEYS[1])
if how == 'close' then
    if type(found) == 'string' and found ~= seen then return 0 end
    redis.call('DEL', KEYS[1], KEYS[2])
    return 1
end

local server = identity()
if type(found) ~= 'string' then found = '' end
if found ~= seen or not server or string.sub(fence, 1, #server + 1) ~= server .. ' ' then return 0 end
redis.call('DEL', KEYS[2], KEYS[3])
redis.call('SET', KEYS[1], fence .. ' closed')
return 1

-- Opens a coupon in this release if an older one has verified it in the valid epoch, and in the older one if it is open here.
-- KEYS  1 gate  2 verified  3 generation
-- ARGV  1 identity of the server  2 era of the coupon in MySQL  3 epoch of the older releases  4 a new generation
-- Reply 1 the coupon is open in both | 0 it is closed, or this is another server
-- Never opens an era that began on this server: the reconciler that began it must compare the coupon first.
if identity() ~= ARGV[1] then return 0 end
local open = ARGV[1] .. ' ' .. ARGV[2] .. ' open'
local gate, is_verified = redis.pcall('GET', KEYS[1]), redis.pcall('GET', KEYS[2]) == ARGV[3]
if gate == open then
    if not is_verified then redis.call('SET', KEYS[2], ARGV[3]) end
    if type(redis.pcall('GET', KEYS[3])) ~= 'string' then redis.call('SET', KEYS[3], ARGV[4]) end
    return 1
end
if not is_verified then return 0 end
if type(gate) == 'string' and string.sub(gate, 1, #ARGV[1] + 1) == ARGV[1] .. ' ' then return 0 end
redis.call('SET', KEYS[1], open)
return 1

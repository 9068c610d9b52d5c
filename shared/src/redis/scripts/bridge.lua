-- Opens a coupon to this release if an older one has verified it in the life of Redis that stands, and the other way round.
-- KEYS  1 gate  2 verified  3 generation
-- ARGV  1 identity of the server  2 era of the coupon in MySQL  3 epoch of the older releases' life  4 a fresh generation
-- Reply 1 the coupon is open to both | 0 it is closed, or this is another server
-- An era that was begun on this server is never opened here: the reconciler that began it compares the coupon first.
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

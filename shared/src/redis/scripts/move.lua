-- Repair: gives a person another slot (from > 0), or a person who holds none their first (from =
-- 0): the lowest free slot within the quantity, else the next number.
-- KEYS  1 meta  2 count  3 users  4 free  5 times  6 claimants  7 gate  8 waiting  9 revoked  10 version
-- ARGV  1 era as `SERVER ERA`  2 drop id  3 user  4 from (-1 for any score that is no slot)  5 quantity that the caller went by ('' for any)
-- Reply {moved, slot, now} | {none, 0, 0} no slot is left | {changed, slot or 0, 0} the person is
-- not where the caller saw them, or is revoked, or the quantity is another | {stale, 0, 0}; now:
-- Redis's time in ms
if not is_in_era(KEYS[7], ARGV[1]) then return {'stale', 0, 0} end
local drop, user, from = ARGV[2], ARGV[3], tonumber(ARGV[4])
local meta = redis.call('HMGET', KEYS[1], 'quantity', 'once_per')
local quantity = tonumber(meta[1])
local count = tonumber(redis.call('GET', KEYS[2]) or '')
if not quantity or not count then return {'stale', 0, 0} end
local current = tonumber(redis.call('ZSCORE', KEYS[3], user) or '0')
local no_slot = from == -1 and (current % 1 ~= 0 or math.abs(current) >= 2 ^ 52)
if current ~= from and not no_slot or (ARGV[5] ~= '' and tonumber(ARGV[5]) ~= quantity) then return {'changed', current, 0} end
local ban = redis.call('HGET', KEYS[9], meta[2] == 'coupon' and user or drop .. ':' .. user)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ban and now <= (tonumber(string.match(ban, '^%d+:(%d+)$') or '') or now) then return {'changed', current, 0} end
if from == 0 and meta[2] == 'coupon' then
    local elsewhere = redis.call('HGET', KEYS[6], user)
    if elsewhere then return {'changed', 0, 0} end
end
-- The counter and the free slots may be wrong at this point of a repair: a slot that somebody holds
-- is never given.
local function held(slot) return redis.call('ZCOUNT', KEYS[3], slot, slot) > 0 end
local slot = nil
local seen = 0
repeat
    local some = redis.call('ZRANGEBYSCORE', KEYS[4], 1, quantity, 'LIMIT', seen, 100)
    for _, free in ipairs(some) do
        if not held(free) then
            slot = tonumber(free)
            break
        end
    end
    seen = seen + #some
until slot or #some == 0
if not slot then
    slot = math.max(count, 0) + 1
    while slot <= quantity and held(slot) do slot = slot + 1 end
    if slot > quantity then return {'none', 0, 0} end
end
redis.call('ZREM', KEYS[4], slot)
redis.call('ZREM', KEYS[8], user)
count_change(KEYS[10])
redis.call('ZADD', KEYS[3], slot, user)
if slot > count then redis.call('SET', KEYS[2], slot) end
redis.call('HSET', KEYS[5], slot, now)
if meta[2] == 'coupon' then redis.call('HSET', KEYS[6], user, drop .. ':' .. slot) end
if from > 0 and from <= quantity and redis.call('ZCOUNT', KEYS[3], from, from) == 0 then
    redis.call('ZADD', KEYS[4], from, from)
    redis.call('HDEL', KEYS[5], from)
end
return {'moved', slot, now}

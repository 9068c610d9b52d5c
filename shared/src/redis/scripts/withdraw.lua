-- Repair: takes a slot back from a person whose admission cannot stand. With front = '1' they go to
-- the head of the waiting list. The slot is free again if it is within the quantity and nobody else
-- is on it.
-- KEYS  1 meta  2 count  3 users  4 free  5 times  6 claimants  7 gate  8 waiting  10 version
-- ARGV  1 era as `SERVER ERA`  2 drop id  3 user  4 from (-1 for any score that is no slot; 0: they hold none, and are a claimant of the drop all
--       the same, which ends)  5 front
-- Reply {withdrawn, slot} | {changed, slot or 0} | {stale, 0}
if not is_in_era(KEYS[7], ARGV[1]) then return {'stale', 0} end
local drop, user, from = ARGV[2], ARGV[3], tonumber(ARGV[4])
local quantity = tonumber(redis.call('HGET', KEYS[1], 'quantity') or '')
local count = tonumber(redis.call('GET', KEYS[2]) or '')
if not quantity or not count then return {'stale', 0} end
local score = redis.call('ZSCORE', KEYS[3], user)
if from == 0 and not score then
    if string.match(redis.call('HGET', KEYS[6], user) or '', '^(%d+):') == drop then
        count_change(KEYS[10])
        redis.call('HDEL', KEYS[6], user)
    end
    return {'withdrawn', 0}
end
local current = tonumber(score or '0')
local no_slot = from == -1 and (current % 1 ~= 0 or math.abs(current) >= 2 ^ 52)
if current ~= from and not no_slot then return {'changed', current} end
redis.call('ZREM', KEYS[3], user)
count_change(KEYS[10])
if redis.call('HGET', KEYS[6], user) == drop .. ':' .. from then redis.call('HDEL', KEYS[6], user) end
if redis.call('ZCOUNT', KEYS[3], from, from) == 0 then
    redis.call('HDEL', KEYS[5], from)
    if from >= 1 and from <= quantity and from <= count then redis.call('ZADD', KEYS[4], from, from) end
end
if ARGV[5] == '1' then
    -- Before everybody else, and among themselves in the order of their slots: 2^40 is above every arrival's number.
    redis.call('ZADD', KEYS[8], math.min(from, 1099511627776) - 1099511627776, user)
end
return {'withdrawn', from}

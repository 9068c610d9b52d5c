-- Repair: gives free slots, then new slot numbers, to the first users on the waiting list, in order.
-- KEYS  1 meta  2 count  3 users  4 free  5 times  6 claimants  7 gate  8 waiting  9 revoked  10 version
--       11 sizes
-- ARGV  1 era as `SERVER ERA`  2 drop id  3 maximum number of slots
-- Reply {stale} | {ok, now, left, odd, user, slot, user, slot, …}; now: Redis's time in ms; left: number
--       of entries removed without a slot, 1,000 at most; odd: number of these that are invalid user ids
-- Users who already hold a slot (of this drop, or of the coupon if one is allowed in total), users
-- who are revoked, and invalid user ids (`UserId` in Rust) leave the list without a slot. No user
-- is promoted while the coupon is paused. If the drop was closed early, only users with a broken
-- promise are promoted: `set_slots.lua` gives them scores up to 0.
if not is_in_era(KEYS[7], ARGV[1]) then return {'stale'} end
local meta = redis.call('HMGET', KEYS[1], 'quantity', 'once_per', 'paused', 'closed_early')
local quantity, count = tonumber(meta[1]), tonumber(redis.call('GET', KEYS[2]) or '')
if not quantity or not count then return {'stale'} end
if count ~= redis.call('ZCARD', KEYS[3]) + redis.call('ZCARD', KEYS[4]) then return {'stale'} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local reply = {'ok', now, 0, 0}
if meta[3] == '1' then return reply end
while #reply < 4 + 2 * tonumber(ARGV[3]) and reply[3] < 1000 do
    local first = redis.call('ZRANGE', KEYS[8], 0, 0, 'WITHSCORES')
    local user = first[1]
    if not user or (meta[4] == '1' and tonumber(first[2]) > 0) then break end
    local holds = redis.call('ZSCORE', KEYS[3], user) or (meta[2] == 'coupon' and redis.call('HGET', KEYS[6], user))
    local ban = redis.call('HGET', KEYS[9], meta[2] == 'coupon' and user or ARGV[2] .. ':' .. user)
    local is_id = #user >= 1 and #user <= 128 and not string.find(user, '[^%w._@+|:=/-]')
    if holds or not is_id or (ban and now <= (tonumber(string.match(ban, '^%d+:(%d+)$') or '') or now)) then
        redis.call('ZREM', KEYS[8], user)
        reply[3] = reply[3] + 1
        if not is_id then reply[4] = reply[4] + 1 end
    else
        local slot = nil
        local lowest = tonumber(redis.call('ZRANGE', KEYS[4], 0, 0)[1] or '')
        if lowest and lowest > count then break end
        if lowest and lowest <= quantity then slot = lowest elseif count < quantity then slot = count + 1 end
        -- As in admission: after a manual change, the counters may match and still point at a held slot.
        if not slot or redis.call('ZCOUNT', KEYS[3], slot, slot) > 0 then break end
        redis.call('ZREM', KEYS[8], user)
        redis.call('ZREM', KEYS[4], slot)
        if slot > count then
            count = slot
            redis.call('SET', KEYS[2], slot)
        end
        redis.call('ZADD', KEYS[3], slot, user)
        redis.call('HSET', KEYS[5], slot, now)
        if meta[2] == 'coupon' then
            count_fields(KEYS[11], 'claimants', redis.call('HSET', KEYS[6], user, ARGV[2] .. ':' .. slot))
        end
        reply[#reply + 1] = user
        reply[#reply + 1] = slot
    end
end
if #reply > 4 or reply[3] > 0 then count_change(KEYS[10]) end
return reply

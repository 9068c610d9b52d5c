-- Gives free slots, then new slot numbers, to the first users on the waiting list, in order.
-- KEYS  see identity.lua; one drop
-- ARGV  1 era as `SERVER ERA`  2 drop id  3 maximum number of slots
-- Reply {-1}: another era, another server, or the coupon is closed, the drop's numbers do not add
--       up, or a key is lost
--       {-2}: the drop is leased (identity.lua), so ask again: while users wait, no new lease is
--       granted
--       {now, left_out, user, slot, user, slot, …}: now: Redis's time in ms; left_out: number of
--       entries removed without a slot, 1,000 at most
-- Users who already hold a slot (of this drop, or of the coupon if one is allowed in total) and
-- users who are revoked for good leave the list without a slot. No user is promoted while the
-- coupon is paused. If the drop was closed early, only users with a broken promise are promoted:
-- `project.lua` gives them scores up to 0.
local meta = redis.call('HMGET', KEYS[7], 'quantity', 'once_per', 'paused', 'closed_early', 'version', 'lease_until')
local quantity, per_coupon, count = tonumber(meta[1]), meta[2] == 'coupon', tonumber(redis.call('GET', KEYS[8]))
local sum = redis.call('ZCARD', KEYS[9]) + redis.call('ZCARD', KEYS[10])
if gate_state(ARGV[1]) ~= 'open' or not quantity or count ~= sum or has_lost_users(per_coupon) then return {-1} end
local now = now_ms()
local reply = {now, 0}
if meta[3] == '1' or redis.call('ZCARD', KEYS[11]) == 0 then return reply end
if is_leased(KEYS[7], meta[6], now) then return {-2} end
local passed_over = 0
while #reply < 2 + 2 * tonumber(ARGV[3]) and reply[2] < 1000 and passed_over < 1000 do
    local user, place = unpack(redis.call('ZRANGE', KEYS[11], passed_over, passed_over, 'WITHSCORES'))
    if not user or (meta[4] == '1' and tonumber(place) > 0) then break end
    local holds = redis.call('ZSCORE', KEYS[9], user) or (per_coupon and redis.call('HGET', KEYS[3], user))
    local void_until = void_times(ARGV[2], per_coupon, {user})[1] or 0
    if holds or void_until == math.huge then
        redis.call('ZREM', KEYS[11], user)
        reply[2] = reply[2] + 1
    elseif now <= void_until then
        -- The clock was set back: a slot given now would look older than the end of the revocation,
        -- and so be void. The user keeps the place until the clock is right. Other users are not
        -- delayed.
        passed_over = passed_over + 1
    else
        local slot = tonumber(redis.call('ZRANGE', KEYS[10], 0, 0)[1]) or count + 1
        if slot > quantity then break end
        -- Write `times` first: no command before this one has read it, so its type is not checked.
        redis.call('HSET', KEYS[12], slot, now)
        redis.call('ZREM', KEYS[11], user)
        redis.call('ZREM', KEYS[10], slot)
        redis.call('HSET', KEYS[7], 'version', next_version(tonumber(meta[5]) or 0, now))
        count = math.max(count, slot)
        redis.call('SET', KEYS[8], count)
        redis.call('ZADD', KEYS[9], slot, user)
        if per_coupon then redis.call('HSET', KEYS[3], user, ARGV[2] .. ':' .. slot) end
        reply[#reply + 1], reply[#reply + 2] = user, slot
    end
end
return reply

-- Repair: gives people the slots their evidence (row, backup row, unread message) says they hold.
-- KEYS  1 count  2 users  3 free  4 times  5 claimants  6 gate  7 revoked  8 version
-- ARGV 1 era as `SERVER ERA` 2 drop id 3 once_per 4.. fours: user, slot, claimed_at_ms ('' if unknown),
-- certain
-- Reply {stale} or one word each: applied | same | taken (another person is on that slot) | revoked
-- (the claim is void); nothing was changed by the last three. `certain` = '1' means that a row says
-- so: they get the slot even if another is on it, who is moved next. Until then two people on one
-- slot keep count ~= |users| + |free|, so admission is closed. A slot above count raises count to
-- it. Slots skipped over that way leave count ~= |users| + |free|, so admission stays closed until
-- `repair_count` has put them among the free ones.
if not is_in_era(KEYS[6], ARGV[1]) then return {'stale'} end
local replies = {}
for i = 4, #ARGV, 4 do
    local user, slot, at, certain = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3] == '1'
    local current = tonumber(redis.call('ZSCORE', KEYS[2], user) or '')
    local claimed = ARGV[3] ~= 'coupon' or redis.call('HGET', KEYS[5], user) == ARGV[2] .. ':' .. slot
    local reply = 'applied'
    local ban = redis.call('HGET', KEYS[7], ARGV[3] == 'coupon' and user or ARGV[2] .. ':' .. user)
    local ended = ban and tonumber(string.match(ban, '^%d+:(%d+)$') or '')
    -- A claim of unknown instant may be the one that was revoked.
    if ban and (not ended or (at == '' and current ~= slot) or (at ~= '' and tonumber(at) <= ended)) then
        reply = 'revoked'
    elseif current == slot then
        if claimed then reply = 'same' end
    else
        for _, owner in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], slot, slot)) do
            if owner ~= user and not certain then reply = 'taken' end
        end
    end
    if reply == 'applied' then
        count_change(KEYS[8])
        local count = tonumber(redis.call('GET', KEYS[1]) or '0')
        redis.call('ZADD', KEYS[2], slot, user)
        redis.call('ZREM', KEYS[3], slot)
        if at ~= '' then redis.call('HSETNX', KEYS[4], slot, at) end
        if ARGV[3] == 'coupon' then redis.call('HSET', KEYS[5], user, ARGV[2] .. ':' .. slot) end
        if slot > count then redis.call('SET', KEYS[1], slot) end
        if current and current ~= slot and current % 1 == 0 and redis.call('ZCOUNT', KEYS[2], current, current) == 0 then
            redis.call('ZADD', KEYS[3], current, current)
            redis.call('HDEL', KEYS[4], current)
        end
    end
    replies[#replies + 1] = reply
end
return replies

-- Repair: puts people whose promises are broken at the head of the waiting list, in the order of
-- the slots that they were promised. Who holds a slot by now, or a claim of the coupon where one
-- each is allowed, is left where they are, and so is who is revoked.
-- KEYS  1 users  2 waiting  3 claimants  4 gate  5 revoked  6 version
-- ARGV  1 era as `SERVER ERA`  2 once_per  3 drop id  4.. pairs: user, promised slot
-- Reply ok | stale
if not is_in_era(KEYS[4], ARGV[1]) then return 'stale' end
for i = 4, #ARGV, 2 do
    local user = ARGV[i]
    local holds = redis.call('ZSCORE', KEYS[1], user) or (ARGV[2] == 'coupon' and redis.call('HGET', KEYS[3], user))
    local ban = redis.call('HGET', KEYS[5], ARGV[2] == 'coupon' and user or ARGV[3] .. ':' .. user)
    if not holds and (not ban or string.find(ban, ':', 1, true)) then
        -- As `withdraw` scores them.
        redis.call('ZADD', KEYS[2], math.min(tonumber(ARGV[i + 1]), 1099511627776) - 1099511627776, user)
    end
end
count_change(KEYS[6])
return 'ok'

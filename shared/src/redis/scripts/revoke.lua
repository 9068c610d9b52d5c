-- Carries a revocation out, or its end: the person is banned, what it voids is taken from them, and
-- its slot is free if it is within the quantity and nobody else is on it. Safe at any time, in any
-- life of Redis, and as often as wanted: it takes away only what MySQL says is void. One that comes
-- late, when a later revocation of the person or its own end is known here, follows that. Of two ends
-- of one the newer counts: whoever brings one has it from MySQL, where there is only one.
-- KEYS  1 meta  2 count  3 users  4 free  5 times  6 claimants  7 gate  8 waiting  9 revoked  10 version
-- ARGV  1 drop id  2 user  3 field of `revoked`  4 number of the revocation
--       5 until when claims are void, Redis's time in ms ('' every one, it has not ended)
-- Reply {slot that was released or 0, until when claims are void; where it has not ended: now, or
-- the claim's instant}
local drop, user, field, id, over = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local quantity = tonumber(redis.call('HGET', KEYS[1], 'quantity') or '') or 0
local count = tonumber(redis.call('GET', KEYS[2]) or '') or 0
local slot = tonumber(redis.call('ZSCORE', KEYS[3], user) or '')
local at = slot and tonumber(redis.call('HGET', KEYS[5], string.format('%.0f', slot)) or '')
local claimed = redis.call('HGET', KEYS[6], user)
redis.call('ZCARD', KEYS[4])
redis.call('ZCARD', KEYS[8])
local known, ended = string.match(redis.call('HGET', KEYS[9], field) or '', '^(%d+):?(%d*)$')
if known and tonumber(known) > tonumber(id) then
    id, over = known, ended
elseif known and tonumber(known) == tonumber(id) and over == '' then
    over = ended
end
-- Lost, it must not let the person win again: `meta` says that there are revocations.
if quantity > 0 then redis.call('HSET', KEYS[1], 'revoked', '1') end
count_change(KEYS[10])
redis.call('HSET', KEYS[9], field, over == '' and id or id .. ':' .. over)
local time = redis.call('TIME')
-- A clock that was set back has given this claim an instant that is still to come.
local now = math.max(time[1] * 1000 + math.floor(time[2] / 1000), at or 0)
local void = slot and (over == '' or (at and at <= tonumber(over)))
if over == '' then redis.call('ZREM', KEYS[8], user) end
-- Without its other half it is no admission. Where the drop is loaded: else its other half may have
-- expired.
local names_drop = claimed and string.match(claimed, '^(%d+):') == drop
if names_drop and (over == '' or (not slot and quantity > 0)) then redis.call('HDEL', KEYS[6], user) end
if not void then return {0, over == '' and now or tonumber(over)} end
redis.call('ZREM', KEYS[3], user)
if claimed == drop .. ':' .. string.format('%.0f', slot) then redis.call('HDEL', KEYS[6], user) end
if redis.call('ZCOUNT', KEYS[3], slot, slot) == 0 then
    redis.call('HDEL', KEYS[5], string.format('%.0f', slot))
    if slot >= 1 and slot <= quantity and slot <= count and slot % 1 == 0 then
        redis.call('ZADD', KEYS[4], slot, string.format('%.0f', slot))
    end
end
return {slot, over == '' and now or tonumber(over)}

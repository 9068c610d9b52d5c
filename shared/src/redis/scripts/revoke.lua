-- Makes revocations known, or their ends, and releases what one voids in a drop. Safe at any time, in any life of Redis, and as
-- often as wanted: it takes only what MySQL says is void. A revocation that comes late, when a later one of the user or its own
-- end is known here, follows that. The newer of two ends of one revocation counts: MySQL has only one.
-- KEYS  1 revoked; to release: 2 version  3 meta  4 count  5 users  6 free  7 times  8 claimants  9 waiting
-- ARGV  1 drop id ('' releases nothing)  2 user of the release  3.. threes: field of `revoked`, number of the revocation,
--       until when claims are void, Redis's time in ms ('' all, it has not ended); to release: one
-- Reply {how many were not known, 0}, or {slot that was released or 0, until when claims are void; if it has not ended: now, or
-- the claim's instant}. The slot is free if it is within the quantity and nobody else is on it.
-- Returns the number and the end that are known from now on, and whether they are new.
local function note(field, id, over)
    local known, ended = string.match(redis.call('HGET', KEYS[1], field) or '', '^(%d+):?(%d*)$')
    if known and tonumber(known) > tonumber(id) then return known, ended, false end
    if known and tonumber(known) == tonumber(id) and (over == '' or over == ended) then return id, ended, false end
    redis.call('HSET', KEYS[1], field, over == '' and id or id .. ':' .. over)
    return id, over, true
end

local drop, user = ARGV[1], ARGV[2]
if drop == '' then
    local news = 0
    for i = 3, #ARGV, 3 do
        local _, _, is_new = note(ARGV[i], ARGV[i + 1], ARGV[i + 2])
        if is_new then news = news + 1 end
    end
    return {news, 0}
end

-- Everything is read, so every type is checked, before the first write.
local quantity = tonumber(redis.call('HGET', KEYS[3], 'quantity') or '') or 0
local count = tonumber(redis.call('GET', KEYS[4]) or '') or 0
local slot = tonumber(redis.call('ZSCORE', KEYS[5], user) or '')
local at = slot and tonumber(redis.call('HGET', KEYS[7], string.format('%.0f', slot)) or '')
local claimed = redis.call('HGET', KEYS[8], user)
redis.call('ZCARD', KEYS[6])
redis.call('ZCARD', KEYS[9])
redis.call('HLEN', KEYS[1])
-- Lost, it must not let the user win again: `meta` says that there are revocations.
if quantity > 0 then redis.call('HSET', KEYS[3], 'revoked', '1') end
count_change(KEYS[2])
local _, over = note(ARGV[3], ARGV[4], ARGV[5])
local time = redis.call('TIME')
-- A clock that was set back has given this claim an instant that is still to come.
local now = math.max(time[1] * 1000 + math.floor(time[2] / 1000), at or 0)
local void = slot and (over == '' or (at and at <= tonumber(over)))
if over == '' then redis.call('ZREM', KEYS[9], user) end
-- Without its other half it is no admission. Only while the drop is loaded: else its other half may have expired.
local names_drop = claimed and string.match(claimed, '^(%d+):') == drop
if names_drop and (over == '' or (not slot and quantity > 0)) then redis.call('HDEL', KEYS[8], user) end
local until_ms = over == '' and now or tonumber(over)
if not void then return {0, until_ms} end
redis.call('ZREM', KEYS[5], user)
if claimed == drop .. ':' .. string.format('%.0f', slot) then redis.call('HDEL', KEYS[8], user) end
if redis.call('ZCOUNT', KEYS[5], slot, slot) == 0 then
    redis.call('HDEL', KEYS[7], string.format('%.0f', slot))
    if slot >= 1 and slot <= quantity and slot <= count and slot % 1 == 0 then
        redis.call('ZADD', KEYS[6], slot, string.format('%.0f', slot))
    end
end
return {slot, until_ms}

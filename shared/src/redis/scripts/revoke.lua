-- Records revocations or their ends, and releases the slot that a revocation voids in a drop. Safe
-- at any time, on any server, and any number of times: it releases only claims that are void in
-- MySQL. If Redis already has a later revocation of the user, or the end of this one, that takes
-- precedence. If a revocation gets a second end, that one applies, because MySQL has only one.
-- KEYS  1 revoked; to release: 2 version  3 meta  4 count  5 users  6 free  7 times  8 claimants  9 waiting  10 sizes
-- ARGV  1 drop id ('' releases nothing)  2 user to release  3.. triples: field of `revoked`, id of
--       the revocation, time in ms until which claims are void ('' if it has not ended: all are; `final` if it never ends);
--       to release a slot: one triple
-- Reply {number of new revocations, 0}, or {released slot or 0, time until which claims are void; if
-- it has not ended: now, or the claim's time}. The released slot becomes free if it is within the
-- quantity and no other user is on it.

-- Records a revocation. Returns the id and end that now apply, whether they are new, and the number of fields added. No
-- revocation follows a final one, so an end was written by hand.
local function note(field, id, over)
    local known, ended = string.match(redis.call('HGET', KEYS[1], field) or '', '^(%d+):?(%d*)$')
    local is_forged = over == 'final' and known and ended ~= ''
    if over == 'final' then over = '' end
    if known and tonumber(known) > tonumber(id) and not is_forged then return known, ended, false, 0 end
    if known and tonumber(known) == tonumber(id) and not is_forged and (over == '' or over == ended) then
        return id, ended, false, 0
    end
    return id, over, true, redis.call('HSET', KEYS[1], field, over == '' and id or id .. ':' .. over)
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

-- Read every key, which checks its type, before the first write.
local quantity = tonumber(redis.call('HGET', KEYS[3], 'quantity') or '') or 0
local count = tonumber(redis.call('GET', KEYS[4]) or '') or 0
local slot = tonumber(redis.call('ZSCORE', KEYS[5], user) or '')
local at = slot and tonumber(redis.call('HGET', KEYS[7], string.format('%.0f', slot)) or '')
local claimed = redis.call('HGET', KEYS[8], user)
redis.call('ZCARD', KEYS[6])
redis.call('ZCARD', KEYS[9])
redis.call('HLEN', KEYS[1])
count_change(KEYS[2])
local _, over, _, added = note(ARGV[3], ARGV[4], ARGV[5])
count_fields(KEYS[10], 'revoked', added)
local time = redis.call('TIME')
-- If the clock was set back, the claim's time may be in the future.
local now = math.max(time[1] * 1000 + math.floor(time[2] / 1000), at or 0)
local void = slot and (over == '' or (at and at <= tonumber(over)))
if over == '' then redis.call('ZREM', KEYS[9], user) end
local function forget_claimant() count_fields(KEYS[10], 'claimants', -redis.call('HDEL', KEYS[8], user)) end
-- A claimant without a slot of the drop was not admitted. This holds only while the drop is loaded; otherwise the slot may have
-- expired.
local names_drop = claimed and string.match(claimed, '^(%d+):') == drop
if names_drop and (over == '' or (not slot and quantity > 0)) then forget_claimant() end
local until_ms = over == '' and now or tonumber(over)
if not void then return {0, until_ms} end
redis.call('ZREM', KEYS[5], user)
if claimed == drop .. ':' .. string.format('%.0f', slot) then forget_claimant() end
if redis.call('ZCOUNT', KEYS[5], slot, slot) == 0 then
    redis.call('HDEL', KEYS[7], string.format('%.0f', slot))
    if slot >= 1 and slot <= quantity and slot <= count and slot % 1 == 0 then
        redis.call('ZADD', KEYS[6], slot, string.format('%.0f', slot))
    end
end
return {slot, until_ms}

-- Records revocations or their ends, and releases the slot that a revocation voids in a drop. Safe
-- at any time, on any server, and any number of times: it releases only claims that are void in
-- MySQL. If Redis already has a later revocation of the user, or the end of this one, that takes
-- precedence. If a revocation gets a second end, the second one applies: ends come from MySQL,
-- which has only one.
-- KEYS  see identity.lua; to release: the drop
-- ARGV  1 drop id ('' releases nothing)  2 user to release  3.. triples: field of `revoked`, id of
--       the revocation, what follows the id there (see identity.lua); to release a slot: one triple
-- Reply {number of revocations or ends that were new, 0}, or {released slot or 0, time until which
-- claims are void; if the revocation has not ended: the later of now and the claim's time}. The
-- released slot becomes free if no other user is on it.

-- Records a revocation. Returns the end that now applies, and 1 if it is new, else 0.
local function note(field, id, rest)
    local known, ended = string.match(redis.call('HGET', KEYS[4], field) or '', '^(%d+):?(%d*)$')
    local over = string.match(rest, '%d*$')
    if known and tonumber(known) > tonumber(id) then return ended, 0 end
    if known and tonumber(known) == tonumber(id) and (over == '' or over == ended) then return ended, 0 end
    redis.call('HSET', KEYS[4], field, id .. rest)
    -- Without a gate, either the coupon is over and its keys have expired, or its data is lost. In
    -- the second case, writing its settings before it opens removes the expiry.
    if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('EXPIRE', KEYS[4], 3600) end
    return over, 1
end

local drop, user = ARGV[1], ARGV[2]
if drop == '' then
    local news = 0
    -- Record nothing in a key of another type: a pass deletes it under the closed gate, and writes
    -- all revocations again.
    if type(redis.pcall('HLEN', KEYS[4])) == 'table' then return {0, 0} end
    for i = 3, #ARGV, 3 do news = news + select(2, note(ARGV[i], ARGV[i + 1], ARGV[i + 2])) end
    return {news, 0}
end

-- Read every key, which checks its type, before the first write.
local count, slot = tonumber(redis.call('GET', KEYS[8])), redis.call('ZSCORE', KEYS[9], user)
local at, claimed = slot and tonumber(redis.call('HGET', KEYS[12], slot)), redis.call('HGET', KEYS[3], user)
redis.call('ZCARD', KEYS[10])
redis.call('ZCARD', KEYS[11])
local over = note(ARGV[3], ARGV[4], ARGV[5])
-- If the clock was set back, the claim's time may be in the future.
local until_ms = over == '' and math.max(now_ms(), at or 0) or tonumber(over)
local is_void = slot and (over == '' or (at and at <= until_ms))
if over == '' then redis.call('ZREM', KEYS[11], user) end
-- A claimant without a slot of the drop was not admitted. This holds only while the drop is loaded;
-- otherwise the slot may have expired.
local names_drop = claimed and string.match(claimed, '^(%d+):') == drop
if names_drop and (over == '' or is_void or (not slot and count)) then redis.call('HDEL', KEYS[3], user) end
if not is_void then return {0, until_ms} end
redis.call('ZREM', KEYS[9], user)
if redis.call('ZCOUNT', KEYS[9], slot, slot) == 0 then
    redis.call('HDEL', KEYS[12], slot)
    if count and tonumber(slot) <= count then
        redis.call('ZADD', KEYS[10], slot, slot)
        -- The keys of a sealed drop expire, and `free` may be new.
        local ttl = redis.call('PTTL', KEYS[8])
        if ttl > 0 then redis.call('PEXPIRE', KEYS[10], ttl) end
    end
end
return {tonumber(slot), until_ms}

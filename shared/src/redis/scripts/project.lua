-- Rebuilds a drop from MySQL's rows, page by page, under the closed gate of one era. The closed
-- gate makes it atomic: no claim is answered from half a drop, and a writer of an earlier era
-- changes nothing.
-- KEYS  see identity.lua; one drop
-- ARGV  1 operation (below)  2 era as `SERVER ERA`  3 drop id  4 once_per
--       5.. arguments of the operation
--   clear      5 new value of count, or ''  6.. numbers of the KEYS to delete, whatever their types
--   unreadable deletes the keys of another type than Firstcome's.
--   forget     pairs: field, value: removes these fields of `revoked`, unless they have changed:
--              MySQL has no such revocation, or its drop is sealed. Also at an open gate.
--   seal       notes in `revoked` that this drop is about to be sealed, and that `claimants` has
--              its users. Also at an open gate.
--   page       5, 6 first and last slot; then triples: slot, user, time of admission in ms ('' if
--              unknown): the rows of these slots, at most 2,000. A slot without a row is free, and
--              so is the slot of a claim that a revocation voids: the row may have been read before
--              the revocation. Repeating a page gives the same result.
--   claimants  triples as above: makes these users claimants, unless a revocation voids the claim.
--   owed       pairs: promised slot, user: puts users at the head of the waiting list, in the order
--              of the slots, unless they hold a slot or are revoked. Also at an open gate.
-- Reply -1: another era, another server, the gate is open, or `revoked` is lost (seal); nothing was
-- done. Else the number of users left out, or of keys deleted (unreadable). The caller writes
-- `revoked` first and count (clear) before the pages, so that `revoke.lua` can release a slot of a
-- page that is already written.
local how, drop, per_coupon = ARGV[1], ARGV[3], ARGV[4] == 'coupon'
local state, left_out = gate_state(ARGV[2]), 0
local is_safe_when_open = how == 'owed' or how == 'forget' or how == 'seal'
if not state or state == 'open' and not is_safe_when_open then return -1 end

if how == 'clear' then
    for i = 6, #ARGV do redis.call('UNLINK', KEYS[tonumber(ARGV[i])]) end
    if ARGV[5] ~= '' then redis.call('SET', KEYS[8], ARGV[5]) end
    return 0
elseif how == 'unreadable' then
    local types = {'string', 'string', 'hash', 'hash', 'set', 'string', 'hash', 'string', 'zset', 'zset', 'zset', 'hash'}
    -- The gate has been read, and a revision of another type counts as missing.
    for i = 3, #KEYS do
        local found = redis.call('TYPE', KEYS[i]).ok
        if found ~= 'none' and found ~= types[i] then left_out = left_out + redis.call('UNLINK', KEYS[i]) end
    end
    return left_out
elseif how == 'forget' then
    for i = 5, #ARGV, 2 do
        if redis.call('HGET', KEYS[4], ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', KEYS[4], ARGV[i]) end
    end
    return 0
elseif how == 'seal' then
    -- If the key is lost, do not write the mark: its absence shows the loss.
    if state == 'open' and redis.call('HEXISTS', KEYS[4], '') == 0 then return -1 end
    redis.call('HSET', KEYS[4], '', drop)
    return 0
end

local first, step = how == 'page' and 7 or 5, how == 'owed' and 2 or 3
local names, users, times, claims, free, held = {}, {}, {}, {}, {}, {}
for i = first, #ARGV, step do names[#names + 1] = ARGV[i + 1] end
local void_until = void_times(drop, per_coupon, names)
if how == 'owed' then
    for i, user in ipairs(names) do
        local holds = redis.call('ZSCORE', KEYS[9], user) or (per_coupon and redis.call('HGET', KEYS[3], user))
        if holds or void_until[i] == math.huge then
            left_out = left_out + 1
        else
            -- Arrival numbers are above 0, and slots are below 2^40.
            redis.call('ZADD', KEYS[11], tonumber(ARGV[first + step * (i - 1)]) - 2 ^ 40, user)
        end
    end
    return left_out
end

for i, user in ipairs(names) do
    local at = first + step * (i - 1)
    local slot, time = ARGV[at], ARGV[at + 2]
    -- A claim with an unknown time may be the revoked one.
    if void_until[i] and (tonumber(time) or 0) <= void_until[i] then
        left_out = left_out + 1
    else
        held[tonumber(slot)] = true
        users[#users + 1] = slot
        users[#users + 1] = user
        if how == 'claimants' then
            claims[#claims + 1] = user
            claims[#claims + 1] = drop .. ':' .. slot
        end
        if time ~= '' then
            times[#times + 1] = slot
            times[#times + 1] = time
        end
    end
end
if how == 'claimants' and #claims > 0 then
    redis.call('HSET', KEYS[3], unpack(claims))
elseif how == 'page' then
    for slot = tonumber(ARGV[5]), tonumber(ARGV[6]) do
        if not held[slot] then
            free[#free + 1] = slot
            free[#free + 1] = slot
        end
    end
    for _, key in ipairs({KEYS[9], KEYS[10]}) do redis.call('ZREMRANGEBYSCORE', key, ARGV[5], ARGV[6]) end
    if #users > 0 then redis.call('ZADD', KEYS[9], unpack(users)) end
    if #free > 0 then redis.call('ZADD', KEYS[10], unpack(free)) end
    if #times > 0 then redis.call('HSET', KEYS[12], unpack(times)) end
end
return left_out

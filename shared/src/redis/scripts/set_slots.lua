-- Repair: changes the slots that users of a drop hold, each from the slot that the caller read to the wanted one.
-- KEYS  1 meta  2 count  3 users  4 free  5 times  6 claimants  7 gate  8 waiting  9 revoked  10 version
--       11 sizes
-- ARGV  1 era as `SERVER ERA`  2 drop id  3 once_per  4 quantity that the caller read ('' for any)
--       5.. groups of six: user, seen slot ('' none; -1 any score that is not a slot), its time of admission ('' unknown),
--       wanted (a slot | any | none | front:SLOT), time of the wanted admission ('' unknown), certain (1: a row confirms it)
-- Reply {stale} or {ok, Redis's time in ms, word, slot, word, slot, …}, a pair for each change:
--   applied   slot: the one that the user holds now, or 0
--   same      the user already has the wanted slot
--   taken     another user holds the wanted slot, and no row confirms that it is this user's
--   changed   the user is not on the slot that the caller read, holds a slot in another drop of a once-per-coupon coupon, or
--             the quantity differs
--   revoked   the wanted claim is void
--   full      wanted is `any`, and no slot is left
-- Only `applied` changes anything.
-- A slot that loses its holder is added to neither set: it stays reserved until `repair_count.lua` has processed all pages.
-- Until then count ~= |users| + |free|, so admission to the drop is closed. The same applies to slots that are skipped when a
-- slot above the counter is set, and to two users on one slot, which a row may cause.
-- `front` puts users at the head of the waiting list, in the order of the slots that they were promised.
if not is_in_era(KEYS[7], ARGV[1]) then return {'stale'} end
local drop, per_coupon = ARGV[2], ARGV[3] == 'coupon'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function is_held(slot) return redis.call('ZCOUNT', KEYS[3], slot, slot) > 0 end

-- The user's revocation: whether there is one, and the time until which it voids claims (nil: all).
local function ban_of(user)
    local ban = redis.call('HGET', KEYS[9], per_coupon and user or drop .. ':' .. user)
    return ban, ban and tonumber(string.match(ban, '^%d+:(%d+)$') or '')
end

local function give(user, slot, at)
    redis.call('ZADD', KEYS[3], slot, user)
    redis.call('ZREM', KEYS[4], slot)
    if at ~= '' then redis.call('HSETNX', KEYS[5], slot, at) end
    if per_coupon then
        count_fields(KEYS[11], 'claimants', redis.call('HSET', KEYS[6], user, drop .. ':' .. slot))
    end
    if slot > (tonumber(redis.call('GET', KEYS[2]) or '') or 0) then redis.call('SET', KEYS[2], slot) end
end

local function forget_claimant(user) count_fields(KEYS[11], 'claimants', -redis.call('HDEL', KEYS[6], user)) end

-- The drop that a claimant's entry names, if it has the form of one.
local function drop_of(claim)
    local of, slot = string.match(claim, '^([1-9]%d*):([1-9]%d*)$')
    return of and #of <= 16 and #slot <= 15 and of
end

local function leave(slot)
    if not is_held(slot) then redis.call('HDEL', KEYS[5], string.format('%.0f', slot)) end
end

-- The lowest free slot within the quantity, or else the next new slot. Skips held slots, because
-- the counter and the free slots may be wrong at this point of a repair.
local function slot_left(quantity, count)
    local seen = 0
    repeat
        local some = redis.call('ZRANGEBYSCORE', KEYS[4], 1, quantity, 'LIMIT', seen, 100)
        for _, free in ipairs(some) do
            if not is_held(free) then return tonumber(free) end
        end
        seen = seen + #some
    until #some == 0
    local slot = math.max(count, 0) + 1
    while slot <= quantity and is_held(slot) do slot = slot + 1 end
    return slot <= quantity and slot or nil
end

local function set_slot(user, current, slot, at, certain)
    local ban, ended = ban_of(user)
    local claim = per_coupon and redis.call('HGET', KEYS[6], user)
    -- A claim with an unknown time may be the revoked one.
    if ban and (not ended or (at == '' and current ~= slot) or (at ~= '' and tonumber(at) <= ended)) then return 'revoked' end
    if current == slot then
        if not per_coupon or claim == drop .. ':' .. slot then return 'same' end
    elseif not certain then
        if is_held(slot) then return 'taken' end
        if claim and string.match(claim, '^(%d+):') ~= drop then return 'changed' end
    end
    give(user, slot, at)
    if current and current ~= slot then leave(current) end
    return 'applied', slot
end

local function set_any(user, current)
    local quantity = tonumber(redis.call('HGET', KEYS[1], 'quantity') or '')
    local count = tonumber(redis.call('GET', KEYS[2]) or '')
    if not quantity or not count or (ARGV[4] ~= '' and tonumber(ARGV[4]) ~= quantity) then return 'changed' end
    local ban, ended = ban_of(user)
    if ban and now <= (ended or now) then return 'changed' end
    if not current and per_coupon and redis.call('HEXISTS', KEYS[6], user) == 1 then return 'changed' end
    local slot = slot_left(quantity, count)
    if not slot then return 'full' end
    redis.call('ZREM', KEYS[8], user)
    redis.call('HDEL', KEYS[5], slot)
    give(user, slot, now)
    if current then leave(current) end
    return 'applied', slot
end

local function set_none(user, current, front)
    local claim = redis.call('HGET', KEYS[6], user)
    if current then
        redis.call('ZREM', KEYS[3], user)
        if claim == drop .. ':' .. string.format('%.0f', current) then forget_claimant(user) end
        leave(current)
    elseif front then
        if per_coupon and claim then return 'same' end
        local ban, ended = ban_of(user)
        if ban and not ended then return 'revoked' end
    elseif claim and (drop_of(claim) or drop) == drop then
        forget_claimant(user)
    end
    -- Places the user before all others: arrival numbers are below 2^40.
    if front then redis.call('ZADD', KEYS[8], math.min(front, 1099511627776) - 1099511627776, user) end
    return 'applied', 0
end

local reply, has_changed = {'ok', now}, false
for i = 5, #ARGV, 6 do
    local user, seen, wanted, at = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 3], ARGV[i + 4]
    local current = tonumber(redis.call('ZSCORE', KEYS[3], user) or '')
    local slot, front = tonumber(wanted), tonumber(string.match(wanted, '^front:(-?%d+)$') or '')
    local is_seen = current == seen or (seen == -1 and current and (current % 1 ~= 0 or math.abs(current) >= 2 ^ 52))
    -- A later admission of the same user to the same slot is not the one that the caller read.
    local seen_at = is_seen and current and ARGV[i + 2] ~= '' and redis.call('HGET', KEYS[5], string.format('%.0f', current))
    if seen_at and seen_at ~= ARGV[i + 2] then is_seen = false end
    local word, now_on = 'changed', 0
    if slot and (is_seen or not current or current == slot) then
        word, now_on = set_slot(user, current, slot, at, ARGV[i + 5] == '1')
    elseif is_seen and wanted == 'any' then
        word, now_on = set_any(user, current)
    elseif is_seen and not slot then
        word, now_on = set_none(user, current, front)
    elseif front and not seen then
        word = 'same'
    end
    has_changed = has_changed or word == 'applied'
    reply[#reply + 1] = word
    reply[#reply + 1] = now_on or 0
end
if has_changed then count_change(KEYS[10]) end
return reply

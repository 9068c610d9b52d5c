-- Admission, as a micro-batch: gives each of several users a slot, a place on the waiting list, or
-- a reason for refusal, as if they had claimed one after the other. A coupon is open only if its
-- gate names this server and the era that the caller passes, so that a gate of an earlier server or
-- era admits no user. A replica always refuses, because scripts that write nothing also run there,
-- on old data. The caller names the drops that are candidates, and the script chooses one of them
-- by Redis's time and the windows in their `meta`. It admits users only to the chosen drop.
-- KEYS  1 meta  2 count  3 users  4 free  5 waiting  6 claimants  7 times  8 gate  9 revoked
--       10 allowed  11 allow_list  12 version  13 sizes, then, if there is a second candidate, its
--       meta, count, users, free, waiting, times
-- ARGV  1 drop id  2 drop id of the second candidate, or ''  3 era of the coupon in MySQL
--       4 users' groups ('' if none is known), one word per user, separated by commas: NAME (a
--       member), !NAME (not a member), empty (unknown)  5.. user ids
-- Reply 'closed' if the gate is closed, 'another_era' if it names an era that the caller did not pass;
-- else {Redis's time in ms, id of the open candidate or 0, answer, answer, …}, one answer per user, in order; no answers if
-- the drop is sold out for all users:
--   slot                            accepted
--   0                               sold out
--   {'already', drop, slot, at}     holds a slot; at: time of admission in ms, 0 if unknown
--   {'waiting', position}
--   {'not_open', opens_at_ms}  {'closed', closes_at_ms}
--   'paused'
--   'revoked'                       the user's claim was revoked, and the user may not claim again
--   'not_allowed'                   the coupon is restricted to its allow list or a group, without this user
--   {'group', name}                 the coupon is restricted to this group, and the user's membership is unknown
--   {'unloaded', drop}              no candidate is open, and this one is not loaded
--   'unverified'                    the drop's counters disagree: the reconciler must repair it
-- Invariant: count = |users| + |free|, and no slot above the quantity is given. The script reads every key, which checks its
-- type, before the first write, because Redis has no rollback. `times` is not read; it is written first.
-- Never return or give a score that is not a slot (manual edit): the reply would truncate it to another user's slot.
local call, before = redis.call, 4 -- arguments before the user ids
local people = #ARGV - before
-- For this long after an admission, a claim of the same user counts as a retry, even if the next drop has opened since.
local RETRY_MS = 15000
local function is_slot(number) return number >= 1 and number % 1 == 0 end
local server, gate = identity(), redis.pcall('GET', KEYS[8])
if not server or gate ~= server .. ' ' .. ARGV[3] .. ' open' then
    local era = type(gate) == 'string' and string.match(gate, '^%x+:%x+ (%d+) %a+$')
    return era and era ~= ARGV[3] and 'another_era' or 'closed'
end
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- A candidate with its settings and keys.
local function candidate(drop, meta, count, users, free, waiting, times)
    local fields = call('HMGET', meta, unpack(META))
    local opens, closes, whole = tonumber(fields[2]), tonumber(fields[3]), is_whole(fields)
    return {
        drop = drop, meta = fields, count = count, users = users, free = free, waiting = waiting, times = times,
        opens = opens, closes = closes, is_whole = whole,
        is_open = whole and now >= opens and not (closes and now >= closes),
    }
end
-- Whether to choose `one` rather than `other`. Order of preference: the open drop; a drop without
-- `meta`, which may be open; the next drop to open; the last drop that opened.
local function is_better(one, other)
    if not one.is_open ~= not other.is_open then return one.is_open end
    if not one.is_whole or not other.is_whole then return not one.is_whole end
    if one.opens > now and other.opens > now then return one.opens < other.opens end
    return one.opens > other.opens
end
local chosen, neighbour = candidate(ARGV[1], KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[7]), nil
-- Once a drop has been open for longer than RETRY_MS, its neighbour no longer matters.
if ARGV[2] ~= '' and not (chosen.is_open and now - chosen.opens > RETRY_MS) then
    neighbour = candidate(ARGV[2], unpack(KEYS, #KEYS - 5))
    if not is_better(chosen, neighbour) then chosen, neighbour = neighbour, chosen end
end
local drop, meta, opens, closes = chosen.drop, chosen.meta, chosen.opens, chosen.closes
local quantity = tonumber(meta[1])
local reply = {now, chosen.is_open and tonumber(drop) or 0}

-- Answers for users who hold a slot of the neighbour. While no candidate is open, they include all
-- holders, so that a retry after closing finds its claim. Just after the neighbour closed, they
-- include only users who may be retrying. If a user may hold one coupon in total, `claimants`
-- contains the holders instead.
local elsewhere = {}
local function find_elsewhere()
    local scores = call('ZMSCORE', neighbour.users, unpack(ARGV, before + 1))
    local found, slots, fields = {}, {}, {}
    for i = 1, people do
        if scores[i] then
            found[#found + 1] = i
            slots[#slots + 1] = string.format('%.0f', tonumber(scores[i]))
            fields[#fields + 1] = neighbour.drop .. ':' .. ARGV[before + i]
        end
    end
    if #found == 0 then return end
    -- An error is not a list, so the times are unknown then.
    local times, bans = redis.pcall('HMGET', neighbour.times, unpack(slots)), call('HMGET', KEYS[9], unpack(fields))
    local given = tonumber(redis.pcall('GET', neighbour.count) or '') or 0
    for k, i in ipairs(found) do
        local slot, at = tonumber(scores[i]), tonumber(times[k] or 0) or 0
        local ended = bans[k] and tonumber(string.match(bans[k], '^%d+:(%d+)$') or '')
        local is_void = bans[k] and not (ended and now > ended)
        if not is_void and (not chosen.is_open or now - at <= RETRY_MS) then
            local is_theirs = is_slot(slot) and slot <= given and call('ZCOUNT', neighbour.users, slots[k], slots[k]) == 1
                and redis.pcall('ZCOUNT', neighbour.free, slots[k], slots[k]) == 0
            elsewhere[i] = is_theirs and {'already', neighbour.drop, slot, at} or 'unverified'
        end
    end
end
if neighbour and neighbour.is_whole and neighbour.meta[5] ~= 'coupon' and (not chosen.is_open
    or neighbour.closes and now >= neighbour.closes and now - neighbour.closes <= RETRY_MS) then find_elsewhere() end
if not chosen.is_whole then
    for i = 1, people do reply[i + 2] = elsewhere[i] or {'unloaded', tonumber(drop)} end
    return reply
end

local scores = call('ZMSCORE', chosen.users, unpack(ARGV, before + 1))
local per_coupon = meta[5] == 'coupon'
local claims = per_coupon and call('HMGET', KEYS[6], unpack(ARGV, before + 1))
-- The users' revocations: `NUMBER` if all claims of the user are void, `NUMBER:TIME` if claims
-- admitted after that time are valid.
local bans, revoked = false, call('HLEN', KEYS[9])
if revoked > 0 then
    local fields = {}
    for i = 1, people do fields[i] = per_coupon and ARGV[before + i] or drop .. ':' .. ARGV[before + i] end
    bans = call('HMGET', KEYS[9], unpack(fields))
end
local count, free = tonumber(call('GET', chosen.count) or ''), call('ZCARD', chosen.free)
local users, waiting = call('ZCARD', chosen.users), call('ZCARD', chosen.waiting)

-- The reason for refusing all new users, if any.
local refusal = nil
if now < opens then refusal = {'not_open', opens}
elseif closes and now >= closes then refusal = {'closed', closes}
elseif meta[4] == '1' then refusal = 'paused'
elseif count ~= users + free then refusal = 'unverified'
else
    -- If a revocation or a claimant is lost, that user must not win a second time.
    local claimants, revocations = expected_fields(KEYS[13])
    -- An older release records neither the revocation that it adds nor the claimant that it removes.
    local removed = revocations and math.max(revoked - revocations, 0) or 0
    if revocations and revoked < revocations then refusal = 'unverified'
    elseif per_coupon and call('HLEN', KEYS[6]) < math.max(users, (claimants or 0) - removed) then refusal = 'unverified' end
end

-- Answers for users whom the coupon's restriction excludes. Users who already wait keep their place.
local barred = {}
if meta[7] and meta[7] ~= '' and not refusal then
    local group, listed, words = string.match(meta[7], '^group:(.+)$'), nil, {}
    if group then
        for word in string.gmatch(ARGV[4] .. ',', '(.-),') do words[#words + 1] = word end
    elseif meta[7] == 'list' then
        local text = redis.pcall('GET', KEYS[11])
        local size = string.match(type(text) == 'string' and text or '', '^%d+:(%d+)$')
        -- A lost, incomplete or invalid list must not exclude the users on it.
        if size and tonumber(size) == redis.pcall('SCARD', KEYS[10]) then
            listed = call('SMISMEMBER', KEYS[10], unpack(ARGV, before + 1))
        end
    end
    -- The list is unknown, or Firstcome did not write the restriction.
    if not group and not listed then refusal = 'unverified' end
    for i = 1, people do
        local answer = nil
        if group and words[i] ~= group then
            answer = words[i] == '!' .. group and 'not_allowed' or {'group', group}
        elseif listed and listed[i] == 0 then
            answer = 'not_allowed'
        end
        if answer and not (waiting > 0 and call('ZRANK', chosen.waiting, ARGV[before + i])) then barred[i] = answer end
    end
end

-- The slots that may be given now, lowest first: free ones, then new ones. Users already waiting go
-- first: the reconciler gives them freed slots.
local lowest = {}
if not refusal and waiting == 0 and free > 0 then lowest = call('ZRANGE', chosen.free, 0, people - 1) end
local next_number, last_number = count and count + 1, quantity
-- Whether one of the next slots is held: a counter lowered manually may match the sum and still
-- point at held slots.
local doubt = false
if not refusal and waiting == 0 and next_number <= quantity then
    doubt = call('ZCOUNT', chosen.users, next_number, math.min(next_number + people - 1, quantity)) > 0
end
local taken = 0 -- of `lowest`
local places_to_wait = tonumber(meta[6]) or 0
-- If true, no user of this call changes anything.
local nothing_left = not refusal and waiting == 0 and free == 0 and next_number > quantity
    and math.max(places_to_wait, quantity - users) <= 0
local sold_out = 0 -- number of users with that answer

-- The next slot, nil if none is left, or 'unverified'.
local function next_slot()
    local slot = nil
    if taken < free then
        slot = tonumber(lowest[taken + 1])
        -- Free slots were given before, so a valid one is not above the counter.
        if not slot or slot > count or not is_slot(slot) then return 'unverified' end
        if slot > quantity then return nil end
        if call('ZCOUNT', chosen.users, slot, slot) > 0 then return 'unverified' end
        taken = taken + 1
        return slot
    end
    if next_number > last_number then return nil end
    slot = next_number
    if doubt and call('ZCOUNT', chosen.users, slot, slot) > 0 then return 'unverified' end
    next_number = slot + 1
    return slot
end

local given, places, last_place, held = {}, {}, nil, {}
local new_users, new_times, new_claims, new_waiting = {}, {}, {}, {}
for i = 1, people do
    local user = ARGV[before + i]
    local score, claim = scores[i] or given[user], per_coupon and claims[i]
    local answer = nil
    local ban = bans and bans[i]
    local ended = ban and tonumber(string.match(ban, '^%d+:(%d+)$') or '')
    if ban and not ended then
        answer = 'revoked'
    elseif ended and now <= ended then
        -- The clock was set back: a new claim would look older than the revocation, and so be void.
        answer = 'unverified'
    elseif score then
        -- Holders get their slot at any time, even after closing: a retry is always safe. If the slot was never given, is
        -- free, or has another user too (a manual edit), nobody gets it.
        local slot = tonumber(score)
        local is_theirs = given[user] or is_slot(slot) and count and slot <= count and slot <= quantity
            and call('ZCOUNT', chosen.users, score, score) == 1
            and (free == 0 or call('ZCOUNT', chosen.free, score, score) == 0)
        answer = is_theirs and {'already', drop, slot, given[user] and now or 0} or 'unverified'
        if answer ~= 'unverified' and not given[user] then held[#held + 1] = answer end
    elseif elsewhere[i] then
        answer = elsewhere[i]
    elseif claim then
        -- A claimant of this drop is a holder only if `users` agrees.
        local d, s = string.match(claim, '^(%d+):(%d+)$')
        answer = d and d ~= drop and {'already', d, tonumber(s), 0} or 'unverified'
    elseif refusal then
        answer = refusal
    elseif barred[i] then
        answer = barred[i]
    elseif nothing_left then
        answer = 0
        sold_out = sold_out + 1
    else
        local slot = nil
        if waiting == 0 then slot = next_slot() end
        if slot == 'unverified' then
            answer = slot
        elseif slot then
            answer = slot
            given[user] = slot
            users = users + 1
            new_users[#new_users + 1] = slot
            new_users[#new_users + 1] = user
            new_times[#new_times + 1] = slot
            new_times[#new_times + 1] = now
            if per_coupon then
                new_claims[#new_claims + 1] = user
                new_claims[#new_claims + 1] = drop .. ':' .. slot
            end
        else
            local place = places[user]
            if not place and waiting > #new_waiting / 2 then
                place = call('ZRANK', chosen.waiting, user)
                if place then place = place + 1 end
            end
            if not place and waiting < math.max(places_to_wait, quantity - users) then
                -- The list accepts at least as many users as there are slots left, regardless of its
                -- configured length: those slots are not sold out, only not given yet.
                -- Above 2^53, adding one changes nothing, and later users would be sorted by id.
                last_place = last_place or math.max(0, tonumber(
                    call('ZREVRANGEBYSCORE', chosen.waiting, '(9007199254740991', '-inf', 'WITHSCORES', 'LIMIT', 0, 1)[2] or 0))
                last_place = last_place + 1
                new_waiting[#new_waiting + 1] = last_place
                new_waiting[#new_waiting + 1] = user
                waiting = waiting + 1
                place = waiting
                places[user] = place
            end
            answer = place and {'waiting', place} or 0
        end
    end
    reply[i + 2] = answer
end

if sold_out == people then return {reply[1], reply[2]} end
if #held > 0 then
    local slots = {}
    for i, answer in ipairs(held) do slots[i] = string.format('%.0f', answer[3]) end
    -- An error is not a list, so the times are unknown then.
    for i, at in ipairs(redis.pcall('HMGET', chosen.times, unpack(slots))) do held[i][4] = tonumber(at or 0) or 0 end
end
if #new_users > 0 then
    local written = redis.pcall('HSET', chosen.times, unpack(new_times))
    if type(written) == 'table' then
        -- Only the age of claims depends on this key, so replace it if it has another type.
        if string.find(written.err, 'WRONGTYPE', 1, true) then call('DEL', chosen.times) end
        call('HSET', chosen.times, unpack(new_times))
    end
    call('ZADD', chosen.users, unpack(new_users))
    if per_coupon then
        count_fields(KEYS[13], 'claimants', call('HSET', KEYS[6], unpack(new_claims)))
    end
    if next_number - 1 > count then call('SET', chosen.count, next_number - 1) end
    if taken > 0 then call('ZREM', chosen.free, unpack(lowest, 1, taken)) end
end
if #new_waiting > 0 then call('ZADD', chosen.waiting, unpack(new_waiting)) end
if #new_users + #new_waiting > 0 then count_change(KEYS[12]) end
return reply

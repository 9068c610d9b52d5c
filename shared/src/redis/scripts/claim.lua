-- Admission, as a micro-batch: gives each of several users a slot, a place on the waiting list, or
-- a reason for refusal, as if they had claimed one after the other. A coupon is open only if its
-- gate names this server and the era that the caller passes, so that a gate of an earlier server or
-- era admits no user. A replica always refuses, because scripts that write nothing also run there,
-- on old data. The caller names the drops that are candidates, and the script chooses one of them
-- by Redis's time and the windows in their `meta`. It admits users only to the chosen drop.
-- docs/ARCHITECTURE.md ("What closes admission") lists what closes admission.
-- KEYS  see identity.lua; one or two drops
-- ARGV  1 era of the coupon in MySQL  2 users' groups ('' if none is known), one word per user,
--       separated by commas: NAME (a member), !NAME (not a member), empty (unknown)
--       3 drop id  4 drop id of the second candidate, or ''
--       5 'lease' to ask for a lease of the drop, or ''  6.. user ids
-- Reply 'another_era' if the gate names another era than the caller, 'closed' if it is not open on
-- this server for another reason; else {Redis's time in ms, id of the open candidate or 0, ms left
-- of the lease or 0, version of the holders, answer, answer, …}, one answer per user, in order; no
-- answers if the drop is sold out for all users:
--   slot                            accepted
--   0                               sold out
--   {'already', drop, slot, at}     holds a slot; at: time of admission in ms, 0 if unknown
--   {'waiting', position}
--   {'not_open', opens_at_ms}  {'closed', closes_at_ms}
--   'paused'
--   'revoked'                       the user's claim was revoked, and the user may not claim again
--   'not_allowed'                   the coupon is restricted to its allow list or a group, without
--                                   this user
--   'group'                         the coupon is restricted to a group, and the user's membership
--                                   is unknown
--   {'unloaded', drop}              no candidate is open, and this one is not loaded
--   'unverified'                    the drop's numbers disagree, or data is lost, so the reconciler
--                                   must rebuild it; or Redis's clock was set back
-- Invariant: count = |users| + |free|, and no slot above the quantity is given. Everything is read
-- and decided before the first write, because Redis has no rollback: reading a key checks its type,
-- and `times`, which may be unread, is written first. Only the end of a lease is written earlier:
-- it changes no answer of this call.
local call, before, head = redis.call, 5, 4 -- arguments before the user ids, and parts of the reply before the answers
-- For this long after an admission, a claim of the same user counts as a retry, even if the next
-- drop has opened since.
local RETRY_MS = 15000
local server, gate = identity(), redis.pcall('GET', KEYS[1])
if not server or gate ~= server .. ' ' .. ARGV[1] .. ' open' then
    local era = type(gate) == 'string' and string.match(gate, '^%x+:%x+ (%d+) %a+$')
    return era and era ~= ARGV[1] and 'another_era' or 'closed'
end
local now, people = now_ms(), {unpack(ARGV, before + 1)}

-- A candidate with its settings and keys.
local function candidate(drop, meta, count, users, free, waiting, times)
    local fields = call('HMGET', meta, 'quantity', 'opens_at_ms', 'closes_at_ms', 'paused', 'once_per', 'waiting_list', 'allow',
        'version', 'lease_until')
    local quantity, opens, closes = tonumber(fields[1]), tonumber(fields[2]), tonumber(fields[3])
    return {
        drop = drop, meta = meta, count = count, users = users, free = free, waiting = waiting, times = times,
        is_loaded = quantity and opens, quantity = quantity, opens = opens, closes = closes,
        is_open = quantity and opens and now >= opens and not (closes and now >= closes),
        is_paused = fields[4] == '1', per_coupon = fields[5] == 'coupon',
        places = tonumber(fields[6]) or 0, allow = fields[7] or '',
        version = tonumber(fields[8]) or 0, lease_until = tonumber(fields[9]) or 0,
    }
end
-- Whether to choose `one` rather than `other`. Order of preference: the open drop; a drop without
-- `meta`, which may be open; the next drop to open; the last drop that opened.
local function is_better(one, other)
    if not one.is_open ~= not other.is_open then return one.is_open end
    if not one.is_loaded or not other.is_loaded then return not one.is_loaded end
    if one.opens > now and other.opens > now then return one.opens < other.opens end
    return one.opens > other.opens
end
local chosen, neighbour = candidate(ARGV[3], unpack(KEYS, 7, 12)), nil
-- Once a drop has been open for longer than RETRY_MS, its neighbour no longer matters.
if ARGV[4] ~= '' and not (chosen.is_open and now - chosen.opens > RETRY_MS) then
    neighbour = candidate(ARGV[4], unpack(KEYS, 13, 18))
    if not is_better(chosen, neighbour) then chosen, neighbour = neighbour, chosen end
end
local drop, quantity, per_coupon = chosen.drop, chosen.quantity, chosen.per_coupon
local reply = {now, chosen.is_open and tonumber(drop) or 0, 0, chosen.version}

-- The answers for users who hold a slot of a drop.
local function holders(one)
    local answers, found, slots = {}, {}, {}
    for i, slot in ipairs(call('ZMSCORE', one.users, unpack(people))) do
        if slot then
            found[#found + 1] = i
            slots[#slots + 1] = slot
        end
    end
    local times = #slots > 0 and call('HMGET', one.times, unpack(slots))
    for k, i in ipairs(found) do answers[i] = {'already', one.drop, tonumber(slots[k]), tonumber(times[k]) or 0} end
    return answers
end
local held = holders(chosen)
-- Answers for users who hold a slot of the neighbour: while no candidate is open, for all holders,
-- so that a retry after closing finds its claim; just after the neighbour closed, for users who may
-- be retrying. If a user may hold one coupon in total, `claimants` contains the holders instead.
local elsewhere, closed = {}, neighbour and neighbour.closes or math.huge
local has_neighbour = neighbour and neighbour.is_loaded and not neighbour.per_coupon
    and (not chosen.is_open or (now >= closed and now - closed <= RETRY_MS))
if has_neighbour then
    local void_until = void_times(neighbour.drop, false, people)
    for i, answer in pairs(holders(neighbour)) do
        local may_retry = not chosen.is_open or now - answer[4] <= RETRY_MS
        if may_retry and (not void_until[i] or now > void_until[i]) then elsewhere[i] = answer end
    end
end
if not chosen.is_loaded then
    for i in ipairs(people) do reply[i + head] = elsewhere[i] or {'unloaded', tonumber(drop)} end
    return reply
end

local claims = per_coupon and call('HMGET', KEYS[3], unpack(people)) or {}
local void_until, will_end = void_times(drop, per_coupon, people)
local count, free = tonumber(call('GET', chosen.count)), call('ZCARD', chosen.free)
local users, waiting = call('ZCARD', chosen.users), call('ZCARD', chosen.waiting)
local claimants = per_coupon and call('HLEN', KEYS[3])
-- The reason for refusing all new users, if any. Lost users come first: `closed` would be wrong for
-- one of them who holds a slot.
local refusal = nil
if count ~= users + free or has_lost_users(per_coupon) or (per_coupon and claimants <= users) then
    refusal = 'unverified'
elseif now < chosen.opens then refusal = {'not_open', chosen.opens}
elseif not chosen.is_open then refusal = {'closed', chosen.closes}
elseif chosen.is_paused then refusal = 'paused' end

-- Reads the data of the coupon's restriction: the users' groups, or which users are on its list.
local group, listed, words = string.match(chosen.allow, '^group:(.+)$'), nil, {}
if group then
    for word in string.gmatch(ARGV[2] .. ',', '(.-),') do words[#words + 1] = word end
elseif chosen.allow ~= '' and not refusal then
    local size = chosen.allow == 'list' and string.match(call('GET', KEYS[6]) or '', '^%d+:(%d+)$')
    -- A lost or incomplete list must not exclude the users on it.
    if tonumber(size) == call('SCARD', KEYS[5]) then
        listed = call('SMISMEMBER', KEYS[5], unpack(people))
    else
        refusal = 'unverified'
    end
end
local function restriction(i)
    if group and words[i] ~= group then return words[i] == '!' .. group and 'not_allowed' or 'group' end
    if listed and listed[i] == 0 then return 'not_allowed' end
end
local is_restricted = group or listed

-- The slots that may be given now, lowest first: free ones, then new ones.
local lowest = not refusal and waiting == 0 and free > 0 and call('ZRANGE', chosen.free, 0, #people - 1) or {}
local taken, highest = 0, count -- free slots taken, and the highest slot given
local function next_slot()
    local slot = tonumber(lowest[taken + 1])
    if slot and slot <= quantity then
        taken = taken + 1
        return slot
    elseif not slot and highest < quantity then
        highest = highest + 1
        return highest
    end
end
-- Whether no user of this call can get a slot or a place on the waiting list.
local is_sold_out = waiting == 0 and #lowest == 0 and highest and highest >= quantity and math.max(chosen.places, quantity - users) <= 0

local leased = is_leased(chosen.meta, chosen.lease_until, now)
-- Leases the drop to the caller, and returns the ms left. The lease ends before anything changes who
-- gets `sold_out`: the end of the drop, or the start of the other candidate. There is no lease if
-- holders of another drop matter. A lease with half of its time left is not written again.
local function lease()
    local ends = math.min(now + LEASE_MS, chosen.closes or math.huge)
    -- One field of `claimants` is its mark.
    if per_coupon and (ARGV[4] ~= '' or claimants ~= users + 1) then return 0 end
    if ARGV[4] ~= '' then
        local opens = tonumber(call('HGET', chosen.meta == KEYS[7] and KEYS[13] or KEYS[7], 'opens_at_ms'))
        if not opens then return 0 end
        if opens > now then ends = math.min(ends, opens) end
    end
    local kept = math.min(chosen.lease_until, ends)
    if 2 * (kept - now) >= ends - now then return kept - now end
    return write_lease(chosen.meta, ends) and ends - now or 0
end
if is_sold_out and not refusal and not is_restricted then
    if ARGV[5] == 'lease' and not has_neighbour then reply[3] = lease() end
    -- In a rush, most calls contain only users about whom Redis knows nothing.
    local is_known = next(held) or next(elsewhere) or next(void_until)
    for i = 1, #claims do is_known = is_known or claims[i] end
    if not is_known then return reply end
end

local given, admitted, sold_out, last_place = {}, 0, 0, nil -- given: slots by user
local new_users, new_times, new_claims, new_waiting, places, has_waited = {}, {}, {}, {}, {}, waiting > 0
local function admit(i, user)
    local place = places[user]
    if not place and has_waited then
        local rank = call('ZRANK', chosen.waiting, user)
        place = rank and rank + 1
    end
    -- Users who already wait keep their place.
    local excluded = is_restricted and not place and restriction(i)
    if excluded then return excluded end
    -- Users already waiting go first: the reconciler gives them freed slots.
    local slot = not leased and waiting == 0 and next_slot()
    if slot then
        given[user] = slot
        users = users + 1
        admitted = admitted + 2
        new_users[admitted - 1] = slot
        new_users[admitted] = user
        new_times[admitted - 1] = slot
        new_times[admitted] = now
        if per_coupon then
            new_claims[admitted - 1] = user
            new_claims[admitted] = drop .. ':' .. slot
        end
        return slot
    end
    -- The list accepts at least as many users as there are slots left, regardless of its configured
    -- length: those slots are not sold out, only not given yet.
    if not place and not leased and waiting < math.max(chosen.places, quantity - users) then
        last_place = (last_place or math.max(0, tonumber(call('ZRANGE', chosen.waiting, -1, -1, 'WITHSCORES')[2]) or 0)) + 1
        new_waiting[#new_waiting + 1] = last_place
        new_waiting[#new_waiting + 1] = user
        waiting = waiting + 1
        places[user] = waiting
        place = waiting
    end
    if place then return {'waiting', place} end
    sold_out = sold_out + 1
    return 0
end

for i, user in ipairs(people) do
    local claimed, until_ms, answer = claims[i], void_until[i], nil
    if until_ms == math.huge then
        answer = will_end[i] and 'unverified' or 'revoked'
    elseif until_ms and now <= until_ms then
        -- The clock was set back: a new claim would look older than the end of the revocation, and
        -- so be void.
        answer = 'unverified'
    elseif given[user] then
        answer = {'already', drop, given[user], now}
    elseif held[i] or elsewhere[i] then
        -- Holders get their slot at any time, even after closing: a retry is always safe.
        answer = held[i] or elsewhere[i]
    elseif claimed then
        -- A claimant of this drop would be in `users`. For a claim on the other candidate, reply
        -- the time in that drop's `times`: with the present time, the consumer would refuse the
        -- claim as one after the closing.
        local of, slot = string.match(claimed, '^(%d+):(%d+)$')
        local times = of == ARGV[3] and KEYS[12] or of == ARGV[4] and KEYS[18]
        local at = times and tonumber(call('HGET', times, slot)) or 0
        answer = of and of ~= drop and {'already', of, tonumber(slot), at} or 'unverified'
    elseif refusal then
        answer = refusal
    elseif is_sold_out and not is_restricted then
        answer = 0
        sold_out = sold_out + 1
    else
        answer = admit(i, user)
    end
    reply[i + head] = answer
end
if sold_out == #people then return {unpack(reply, 1, head)} end
if admitted > 0 then
    call('HSET', chosen.times, unpack(new_times))
    call('HSET', chosen.meta, 'version', next_version(chosen.version, now))
    call('ZADD', chosen.users, unpack(new_users))
    if per_coupon then call('HSET', KEYS[3], unpack(new_claims)) end
    if highest > count then call('SET', chosen.count, highest) end
    if taken > 0 then call('ZREM', chosen.free, unpack(lowest, 1, taken)) end
end
if #new_waiting > 0 then call('ZADD', chosen.waiting, unpack(new_waiting)) end
return reply

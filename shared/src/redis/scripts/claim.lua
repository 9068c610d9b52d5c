-- Admission: gives a person a slot, a place on the waiting list, or a reason why not. The licence to admit is this script
-- being in Redis's script cache: only the reconciler loads it, after it has verified every drop that is not sealed.
-- KEYS  1 meta  2 count  3 users  4 free  5 waiting  6 claimants  7 times  8 generation (for a look only)
-- ARGV  1 drop id  2 user id; empty for a look: what somebody unknown would be told, nothing is written
-- Reply {word, drop id, number, Redis's time in ms, instant of admission in ms}; number is the slot, the position, or the
-- instant a window speaks of; the instant of admission is 0 where it is not known, or of another drop:
--   accepted slot, and a sixth element: 1 where somebody has been told sold_out of this drop before, else 0 · already slot ·
--   waiting position · sold_out 0 · not_open opens_at_ms · closed closes_at_ms · paused 0
--   a look has `open` 0 where they would get a slot or a place, and where nobody has been told sold_out yet; after sold_out a
--   sixth element, the state: as long as it stays the same, nobody new is among users, waiting or claimants. Whatever adds
--   somebody makes one of its numbers grow, and the repairs that make one shrink count themselves in meta's `changes`.
--   unloaded 0 (no such drop here) · unverified 0 (numbers do not add up: the reconciler has work)
-- Invariant: count = |users| + |free|, and no slot above quantity is given. Everything is read, so every type is checked,
-- before the first write, because Redis has no rollback.
local drop, user = ARGV[1], ARGV[2]
local look = user == ''
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local meta = redis.call('HMGET', KEYS[1], 'quantity', 'opens_at_ms', 'closes_at_ms', 'paused', 'once_per', 'waiting_list',
    'sold_out_at_ms')
local quantity, opens = tonumber(meta[1]), tonumber(meta[2])
if not quantity or not opens then return {'unloaded', drop, 0, now} end

-- Who holds one is told so at any time, also after closing: a retry is always safe.
local held = not look and redis.call('ZSCORE', KEYS[3], user)
if held then
    held = tonumber(held)
    return {'already', drop, held, now, tonumber(redis.call('HGET', KEYS[7], string.format('%.0f', held))) or 0}
end
local per_coupon = meta[5] == 'coupon'
if per_coupon and not look then
    local elsewhere = redis.call('HGET', KEYS[6], user)
    if elsewhere then
        local d, s = string.match(elsewhere, '^(%d+):(%d+)$')
        if not d then return {'unverified', drop, 0, now} end
        return {'already', d, tonumber(s), now, 0}
    end
end

if now < opens then return {'not_open', drop, opens, now} end
local closes = tonumber(meta[3])
if closes and now >= closes then return {'closed', drop, closes, now} end
if meta[4] == '1' then return {'paused', drop, 0, now} end

local count = tonumber(redis.call('GET', KEYS[2]))
local free = redis.call('ZCARD', KEYS[4])
if not count or count ~= redis.call('ZCARD', KEYS[3]) + free then return {'unverified', drop, 0, now} end
redis.call('HLEN', KEYS[7])

-- People already waiting go first: the reconciler gives them what comes free.
local waiting = redis.call('ZCARD', KEYS[5])
local slot = nil
if waiting == 0 then
    if free > 0 then
        local lowest = tonumber(redis.call('ZRANGE', KEYS[4], 0, 0)[1])
        -- Free slots have been given out before, so none is above the counter.
        if not lowest or lowest > count then return {'unverified', drop, 0, now} end
        if lowest <= quantity then slot = lowest end
    elseif count < quantity then
        slot = count + 1
    end
end
if look and slot then return {'open', drop, 0, now} end
if not slot then
    local place = not look and redis.call('ZRANK', KEYS[5], user)
    if place then return {'waiting', drop, place + 1, now} end
    -- The list has room for as many as there are slots left, whatever its length: they are not sold out, only not given yet.
    local room = math.max(tonumber(meta[6]) or 0, quantity - redis.call('ZCARD', KEYS[3]))
    if waiting >= room then
        if not look then
            if not meta[7] then redis.call('HSET', KEYS[1], 'sold_out_at_ms', now) end
            return {'sold_out', drop, 0, now}
        end
        if not meta[7] then return {'open', drop, 0, now} end
        local marks = {redis.call('GET', KEYS[8]) or '', redis.call('HGET', KEYS[1], 'changes') or ''}
        local sizes = {quantity, count, redis.call('ZCARD', KEYS[3]), free, waiting, redis.call('HLEN', KEYS[6])}
        return {'sold_out', drop, 0, now, 0, table.concat(marks, ' ') .. ' ' .. table.concat(sizes, ' ')}
    end
    if look then return {'open', drop, 0, now} end
    local last = redis.call('ZREVRANGE', KEYS[5], 0, 0, 'WITHSCORES')[2] or 0
    redis.call('ZADD', KEYS[5], last + 1, user)
    return {'waiting', drop, waiting + 1, now}
end

-- A counter set back by hand can add up and still point at a slot that somebody holds.
if redis.call('ZCOUNT', KEYS[3], slot, slot) > 0 then return {'unverified', drop, 0, now} end

if slot > count then redis.call('SET', KEYS[2], slot) else redis.call('ZREM', KEYS[4], slot) end
redis.call('ZADD', KEYS[3], slot, user)
redis.call('HSET', KEYS[7], slot, now)
if per_coupon then redis.call('HSET', KEYS[6], user, drop .. ':' .. slot) end
return {'accepted', drop, slot, now, now, meta[7] and 1 or 0}

-- Repair: restores count = |users| + |free| for the slots from..to. The caller iterates over all slots in pages.
-- KEYS  1 meta  2 count  3 users  4 free  5 gate  6 version
-- ARGV  1 era as `SERVER ERA`  2 from  3 to  4 least number of users: fewer were lost since the caller read them, and their
--       slots must not become free
-- Reply {stale | done | more, last slot to examine, slots freed in this page}; `more` means that other
-- pages still have gaps. A slot without a holder, up to the highest one in use, is free. Free slots
-- above the quantity or above the highest slot in use are deleted: they are given later by counting on.
if not is_in_era(KEYS[5], ARGV[1]) then return {'stale', 0, 0} end
local quantity = tonumber(redis.call('HGET', KEYS[1], 'quantity') or '')
if not quantity or redis.call('ZCARD', KEYS[3]) < tonumber(ARGV[4]) then return {'stale', 0, 0} end
local from, to = tonumber(ARGV[2]), tonumber(ARGV[3])
local highest = tonumber(redis.call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2] or '0')
redis.call('ZREMRANGEBYSCORE', KEYS[4], '(' .. math.min(highest, quantity), '+inf')
local used = {}
local pairs_in_page = redis.call('ZRANGEBYSCORE', KEYS[3], from, to, 'WITHSCORES')
for i = 2, #pairs_in_page, 2 do
    used[tonumber(pairs_in_page[i])] = true
    redis.call('ZREM', KEYS[4], pairs_in_page[i])
end
-- Delete free slots below 1, which could never be given.
if from == 1 then redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', '(1') end
local free_in_page = redis.call('ZRANGEBYSCORE', KEYS[4], '(' .. from - 1, to, 'WITHSCORES')
for i = 1, #free_in_page, 2 do
    local slot = tonumber(free_in_page[i + 1])
    if free_in_page[i] == free_in_page[i + 1] and slot % 1 == 0 then
        used[slot] = true
    else
        redis.call('ZREM', KEYS[4], free_in_page[i])
    end
end
local freed = 0
for slot = from, math.min(to, highest, quantity) do
    if not used[slot] then
        redis.call('ZADD', KEYS[4], slot, slot)
        freed = freed + 1
    end
end
local held = redis.call('ZCARD', KEYS[3]) + redis.call('ZCARD', KEYS[4])
redis.call('SET', KEYS[2], highest)
count_change(KEYS[6])
return {held == highest and 'done' or 'more', math.min(highest, quantity), freed}

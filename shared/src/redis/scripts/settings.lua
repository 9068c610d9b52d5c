-- Writes a drop's settings from one revision of its coupon. The revision is a fencing token: a write with a revision older than
-- the highest seen changes nothing, so that a delayed write cannot undo a later one. The token is stored per coupon and not in
-- `meta`, so that it also prevents an old writer from loading a drop that was not yet loaded when a newer writer ran.
-- KEYS  1 meta  2 count  3 gate  4 revision  5 claimants  6 revoked  7 allowed  8 allow_list  9 version  10 users  11 waiting
--       12 sizes
-- ARGV  1 operation (below)  2 revision  3 era (load, unload: `SERVER ERA`; lower: the number in MySQL)
--       4.. field, value pairs of meta
--   load      loads the drop for admission, unless it is loaded (a deleted drop's keys, which expire, do not count). The caller must have read the era before anything else: if
--             Redis has lost data since, the caller's information about the drop may be wrong.
--             loaded | present | stale | outdated
--   unload    deletes `meta` of a lost drop: until `load`, admission and other passes treat it as lost. A drop that has whole
--             settings and users, or no slot given, is not lost: another pass may have rebuilt it.  ok | present | stale
--   write     overwrites the fields of a loaded drop.  ok | unloaded | outdated
--   lower     lowers the quantity ahead of MySQL, never below the slots already given, and only while the coupon is open: if it
--             is closed, Redis may have lost given slots.  lowered | unloaded | unverified | below_given_out | outdated
--   withhold  prevents a drop that has not opened and has no users from opening, before MySQL moves or removes it: the drop is
--             paused until `write`.  withheld | in_use | unloaded | outdated
-- Reply {word, count}. `loaded`, `ok`, `lowered` and `withheld` change the drop; `unloaded` of `write` only the revision.
local how, revision = ARGV[1], tonumber(ARGV[2])
-- These do not need count, so its type does not matter.
local found = redis[(how == 'write' or how == 'unload') and 'pcall' or 'call']('GET', KEYS[2])
local count = type(found) == 'string' and tonumber(found) or nil
local function answer(word) return {word, count or 0} end
local seen = revision_in(redis.pcall('GET', KEYS[4]))
local is_loaded = redis.call('EXISTS', KEYS[1]) == 1

if (how == 'load' or how == 'unload') and not is_in_era(KEYS[3], ARGV[3]) then return answer('stale') end
if how == 'unload' then
    local users = tonumber(redis.pcall('ZCARD', KEYS[10])) or 0
    if is_whole(redis.pcall('HMGET', KEYS[1], unpack(META))) and count and (users > 0 or count <= 0) then return answer('present') end
    redis.call('DEL', KEYS[1])
    count_change(KEYS[9])
    return answer('ok')
end
-- A deleted drop that nobody used leaves keys that expire. A drop of the same day gets the same id.
local is_left = how == 'load' and count == 0 and redis.call('PTTL', KEYS[1]) > 0 and redis.call('EXISTS', KEYS[10], KEYS[11]) == 0
if how == 'load' and is_loaded and not is_left then return answer('present') end
if revision < seen then return answer('outdated') end
if how == 'load' then
    -- The coupon may have ended before, with an expiry on its keys.
    for i = 1, 9 do redis.call('PERSIST', KEYS[i]) end
    redis.call('PERSIST', KEYS[12])
    redis.call('SET', KEYS[4], ARGV[2])
    redis.call('SET', KEYS[2], 0, 'NX')
    redis.call('HSET', KEYS[1], unpack(ARGV, 4))
    count_change(KEYS[9])
    return answer('loaded')
end
if how == 'write' then
    redis.call('SET', KEYS[4], ARGV[2])
    if not is_loaded then return answer('unloaded') end
    redis.call('HSET', KEYS[1], unpack(ARGV, 4))
    return answer('ok')
end

local meta = redis.call('HMGET', KEYS[1], 'quantity', 'opens_at_ms')
local quantity, opens = tonumber(meta[1]), tonumber(meta[2])
if not count or not quantity or not opens then return answer('unloaded') end
if how == 'lower' then
    local server = identity()
    if not server or redis.pcall('GET', KEYS[3]) ~= server .. ' ' .. ARGV[3] .. ' open' then return answer('unverified') end
    if tonumber(ARGV[5]) < count then return answer('below_given_out') end
    redis.call('SET', KEYS[4], ARGV[2])
    if tonumber(ARGV[5]) < quantity then redis.call('HSET', KEYS[1], ARGV[4], ARGV[5]) end
    return answer('lowered')
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local people = redis.call('ZCARD', KEYS[10]) + redis.call('ZCARD', KEYS[11])
if now >= opens or count > 0 or people > 0 then return answer('in_use') end
redis.call('SET', KEYS[4], ARGV[2])
redis.call('HSET', KEYS[1], 'paused', '1')
return answer('withheld')

-- Writes the settings of drops from one revision of their coupon. The revision is a fencing token: a write with a revision older
-- than the highest seen changes nothing, so that a delayed write cannot undo a later one. The token is stored per coupon and not
-- in `meta`, so that it also prevents an old writer from loading a drop that was not yet loaded when a newer writer ran.
-- KEYS  see identity.lua; load: one drop
-- ARGV  1 operation (below)  2 revision  3 era (load: `SERVER ERA`; lower: the number in MySQL)  4.. for each drop the field, value
--       pairs of meta (load, write) or the quantity (lower)
--   load      writes all settings of a drop. Under a closed gate: of a drop that was rebuilt or compared in this era. Under an
--             open gate: of a new drop, which has no key yet, or only those that a deleted one left.  loaded | present | stale | outdated
--   write     overwrites the fields of loaded drops.  ok | unloaded (one of them is not) | outdated
--   lower     lowers the quantities ahead of MySQL, never below the slots already given, and only while the coupon is open: if it
--             is closed, Redis may have lost given slots.  lowered | unloaded | unverified | below_given_out | outdated
-- Reply {word, count}: the highest slot given. `loaded`, `ok` and `lowered` change all drops; `unloaded` of `write` the loaded
-- ones and the revision; any other nothing.
local how, revision = ARGV[1], tonumber(ARGV[2])
local drops, highest = (#KEYS - 6) / 6, 0
local words = (#ARGV - 3) / drops
local function answer(word) return {word, highest} end

if how == 'load' then
    local state = gate_state(ARGV[3])
    if not state then return answer('stale') end
    -- A deleted drop that nobody used leaves keys that expire. A drop of the same day gets the same id.
    local is_left = tonumber(redis.pcall('GET', KEYS[8])) == 0 and redis.call('PTTL', KEYS[7]) > 0
        and redis.call('EXISTS', unpack(KEYS, 9, 11)) == 0
    if state == 'open' and not is_left and redis.call('EXISTS', unpack(KEYS, 7)) > 0 then return answer('present') end
end
if revision < revision_in(redis.pcall('GET', KEYS[2])) then return answer('outdated') end

if how == 'lower' then
    for drop = 1, drops do
        local meta, count = KEYS[6 * drop + 1], tonumber(redis.pcall('GET', KEYS[6 * drop + 2]))
        -- Values of another type count as missing.
        local fields = redis.pcall('HMGET', meta, 'quantity')
        if not count or not tonumber(fields[1]) then return answer('unloaded') end
        highest = math.max(highest, count)
    end
    if gate_state((identity() or '') .. ' ' .. ARGV[3]) ~= 'open' then return answer('unverified') end
    if tonumber(ARGV[4]) < highest then return answer('below_given_out') end
    redis.call('SET', KEYS[2], ARGV[2])
    for drop = 1, drops do
        local meta = KEYS[6 * drop + 1]
        if tonumber(ARGV[4]) < tonumber(redis.call('HGET', meta, 'quantity')) then
            redis.call('HSET', meta, 'quantity', ARGV[4])
        end
    end
    return answer('lowered')
end

redis.call('SET', KEYS[2], ARGV[2])
if how == 'load' then redis.call('SET', KEYS[8], 0, 'NX') end
local word = how == 'load' and 'loaded' or 'ok'
-- The coupon may have ended before, or the drop was deleted and made again, with an expiry on its keys.
local function persist(first, last)
    for i = first, last do redis.call('PERSIST', KEYS[i]) end
end
for drop = 1, drops do
    local meta = 6 * drop + 1
    -- A pass rebuilds a drop with a key of another type, which a write must not prevent.
    if how == 'load' or redis.call('TYPE', KEYS[meta]).ok == 'hash' then
        redis.call('HSET', KEYS[meta], unpack(ARGV, 4 + words * (drop - 1), 3 + words * drop))
        persist(1, 6)
        persist(meta, meta + 5)
    else
        word = 'unloaded'
    end
end
return answer(word)

-- Writes the settings of drops from one revision of their coupon. The revision is a fencing token:
-- a write with a revision older than the highest seen changes nothing, so that a delayed write
-- cannot undo a later one. The token is stored per coupon and not in `meta`, so that it also
-- prevents an old writer from loading a drop that was not yet loaded when a newer writer ran.
-- KEYS  see identity.lua; load: one drop
-- ARGV  1 operation (below)  2 revision  3 era (load: `SERVER ERA`; lower: the number in MySQL)
--       4.. for each drop the same number of field, value pairs of meta (lower: one, the quantity)
--   load      writes all settings of a drop. Under a closed gate: of a drop that was rebuilt or
--             compared in this era. Under an open gate: of a new drop, which has no key yet, or
--             only those of a deleted drop with the same id.  ok | present | stale | outdated
--   write     overwrites the fields of loaded drops.  ok | unloaded (one of them is not) | outdated
--   lower     lowers the quantities ahead of MySQL, never below the slots already given, and only
--             while the coupon is open: if it is closed, Redis may have lost given slots.
--             ok | unloaded | unverified | below_given_out | outdated
--   forget    lets the keys of removed drops expire, in ARGV 4 ms, unless a slot was given.
--             ok | outdated: a later change may have brought the drops back
-- Reply {word, count}; count: the highest slot given (lower), else 0. After `ok`, all drops were
-- changed; after `unloaded` of `write`, the loaded ones and the revision; after any other word,
-- nothing.
local how, revision = ARGV[1], tonumber(ARGV[2])
local drops, highest = (#KEYS - 6) / 6, 0
local words = (#ARGV - 3) / drops
local function answer(word) return {word, highest} end
-- A drop whose `meta` has another type counts as not loaded: `HSET` would fail in the middle of the
-- writes. A pass rebuilds that drop.
local function is_loaded(drop) return redis.call('TYPE', KEYS[6 * drop + 1]).ok == 'hash' end
-- Whether a loaded drop has given nothing. If it was deleted, its keys are left until they expire,
-- or for longer if its API has died. A drop of the same day gets the same id.
local function is_unused(drop)
    local at = 6 * drop
    return is_loaded(drop) and tonumber(redis.pcall('GET', KEYS[at + 2])) == 0
        and redis.call('EXISTS', unpack(KEYS, at + 3, at + 5)) == 0
end

if how == 'load' then
    local state = gate_state(ARGV[3])
    if not state then return answer('stale') end
    if state == 'open' and not is_unused(1) and redis.call('EXISTS', unpack(KEYS, 7)) > 0 then return answer('present') end
end
if revision < revision_in(redis.pcall('GET', KEYS[2])) then return answer('outdated') end
if how == 'forget' then
    -- Without it, an older writer could load a removed drop again.
    redis.call('SET', KEYS[2], ARGV[2], 'KEEPTTL')
    for drop = 1, drops do
        if is_unused(drop) then
            for at = 6 * drop + 1, 6 * drop + 6 do redis.call('PEXPIRE', KEYS[at], ARGV[4]) end
        end
    end
    return answer('ok')
end
if how == 'lower' then
    for drop = 1, drops do
        local count = tonumber(redis.pcall('GET', KEYS[6 * drop + 2]))
        if not count or not is_loaded(drop) then return answer('unloaded') end
        highest = math.max(highest, count)
    end
    if gate_state((identity() or '') .. ' ' .. ARGV[3]) ~= 'open' then return answer('unverified') end
    if tonumber(ARGV[5]) < highest then return answer('below_given_out') end
end

redis.call('SET', KEYS[2], ARGV[2])
if how == 'load' then redis.call('SET', KEYS[8], 0, 'NX') end
local word = 'ok'
for drop = 1, drops do
    if how == 'load' or is_loaded(drop) then
        redis.call('HSET', KEYS[6 * drop + 1], unpack(ARGV, 4 + words * (drop - 1), 3 + words * drop))
    else
        word = 'unloaded'
    end
end
-- The coupon may have ended before, or the drop was deleted and made again, with an expiry on its
-- keys.
for _, key in ipairs(KEYS) do redis.call('PERSIST', key) end
return answer(word)

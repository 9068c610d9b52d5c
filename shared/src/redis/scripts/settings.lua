-- Writes a drop's settings from one revision of its coupon. The revision is a fencing token: a write with a revision older than
-- the highest seen changes nothing, so that a delayed write cannot undo a later one. The token is stored per coupon and not in
-- `meta`, so that it also prevents an old writer from loading a drop that was not yet loaded when a newer writer ran.
-- KEYS  see identity.lua; one drop
-- ARGV  1 operation (below)  2 revision  3 era (load: `SERVER ERA`; lower: the number in MySQL)  4.. field, value pairs of meta
--   load      writes all settings of a drop. Under a closed gate: of a drop that was rebuilt or compared in this era. Under an
--             open gate: of a new drop, which has no key yet, or only those that a deleted one left.  loaded | present | stale | outdated
--   write     overwrites the fields of a loaded drop.  ok | unloaded | outdated
--   lower     lowers the quantity ahead of MySQL, never below the slots already given, and only while the coupon is open: if it
--             is closed, Redis may have lost given slots.  lowered | unloaded | unverified | below_given_out | outdated
--   withhold  prevents a drop that has not opened and has no users from opening, before MySQL moves or removes it: the drop is
--             paused until `write`.  withheld | in_use | unloaded | outdated
-- Reply {word, count}. `loaded`, `ok`, `lowered` and `withheld` change the drop; `unloaded` of `write` only the revision.
local how, revision = ARGV[1], tonumber(ARGV[2])
-- Values of another type count as missing: a pass rebuilds the drop, which a write must not prevent.
local fields, count = redis.pcall('HMGET', KEYS[7], 'quantity', 'opens_at_ms'), tonumber(redis.pcall('GET', KEYS[8]))
local quantity, opens = tonumber(fields[1]), tonumber(fields[2])
local function answer(word) return {word, count or 0} end

if how == 'load' then
    local state = gate_state(ARGV[3])
    if not state then return answer('stale') end
    -- A deleted drop that nobody used leaves keys that expire. A drop of the same day gets the same id.
    local is_left = count == 0 and redis.call('PTTL', KEYS[7]) > 0 and redis.call('EXISTS', unpack(KEYS, 9, 11)) == 0
    if state == 'open' and not is_left and redis.call('EXISTS', unpack(KEYS, 7)) > 0 then return answer('present') end
end
if revision < revision_in(redis.pcall('GET', KEYS[2])) then return answer('outdated') end
if how == 'load' then
    redis.call('SET', KEYS[8], 0, 'NX')
elseif how == 'write' and (fields.err or redis.call('EXISTS', KEYS[7]) == 0) then
    redis.call('SET', KEYS[2], ARGV[2])
    return answer('unloaded')
end
if how == 'load' or how == 'write' then
    redis.call('SET', KEYS[2], ARGV[2])
    redis.call('HSET', KEYS[7], unpack(ARGV, 4))
    -- The coupon may have ended before, or the drop was deleted and made again, with an expiry on its keys.
    for _, key in ipairs(KEYS) do redis.call('PERSIST', key) end
    return answer(how == 'load' and 'loaded' or 'ok')
end

if not count or not quantity or not opens then return answer('unloaded') end
if how == 'lower' then
    if gate_state((identity() or '') .. ' ' .. ARGV[3]) ~= 'open' then return answer('unverified') end
    if tonumber(ARGV[5]) < count then return answer('below_given_out') end
    redis.call('SET', KEYS[2], ARGV[2])
    if tonumber(ARGV[5]) < quantity then redis.call('HSET', KEYS[7], ARGV[4], ARGV[5]) end
    return answer('lowered')
end
if now_ms() >= opens or count > 0 or redis.call('EXISTS', KEYS[9], KEYS[11]) > 0 then return answer('in_use') end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('HSET', KEYS[7], 'paused', '1')
return answer('withheld')

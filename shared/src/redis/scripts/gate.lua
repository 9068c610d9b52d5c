-- Begins an era of a coupon, opens the coupon, closes it, or records the sizes of its hashes.
-- KEYS  1 gate  2 version  3 claimants  4 revoked  5 sizes
-- ARGV  1 operation (below)  2 value of `gate` that the caller read ('' if it is missing; open, settle: `SERVER ERA`)
--       3 `SERVER ERA` of the new era (begin); numbers of fields that `claimants` (3) and `revoked` (4) lacked when the
--       caller read them, '' if `sizes` had no number (settle)
--   begin  also closes the coupon: the reconciler is about to rebuild it, or an API has just created it.
--   open   after the coupon was compared in the era of ARGV 2, which the caller read before the topic. Refuses if the keys were
--          lost since then.
--   settle after a pass has restored missing fields. Keeps the number of a hash that has lost or gained fields since.
--   close  deletes the gate, because the version went back: the reconciler finds the coupon without an era and rebuilds it.
-- Reply 1 done | 0 the gate has changed, or this is another server
-- A value that Firstcome did not write counts as missing, whatever its type.
local how, seen, fence = ARGV[1], ARGV[2], ARGV[3]
if how == 'open' or how == 'settle' then
    if not is_in_era(KEYS[1], seen) then return 0 end
    local known = {expected_fields(KEYS[5])}
    for i, name in ipairs({'claimants', 'revoked'}) do
        local fields = redis.pcall('HLEN', KEYS[2 + i])
        local lacked = known[i] and type(fields) == 'number' and known[i] - fields or nil
        if type(fields) == 'number' and (how == 'open' or lacked == tonumber(ARGV[2 + i])) then
            local written = redis.pcall('HSET', KEYS[5], name, fields)
            if type(written) == 'table' then
                -- Replace a key that Firstcome did not write.
                if string.find(written.err, 'WRONGTYPE', 1, true) then redis.call('DEL', KEYS[5]) end
                redis.call('HSET', KEYS[5], name, fields)
            end
        end
    end
    if how == 'open' then redis.call('SET', KEYS[1], seen .. ' open') end
    return 1
end

local found = redis.pcall('GET', KEYS[1])
if how == 'close' then
    if type(found) == 'string' and found ~= seen then return 0 end
    redis.call('DEL', KEYS[1])
    return 1
end

local server = identity()
if type(found) ~= 'string' then found = '' end
if found ~= seen or not server or string.sub(fence, 1, #server + 1) ~= server .. ' ' then return 0 end
redis.call('DEL', KEYS[2])
redis.call('SET', KEYS[1], fence .. ' closed')
return 1

-- Prepended to every script.
-- The identity of this server: one process from one promotion to the next. nil on a replica, whose data may be old.
local function identity()
    local info = redis.call('INFO', 'server', 'replication')
    if not string.find(info, '\nrole:master', 1, true) then return nil end
    local run_id, promotion = string.match(info, '\nrun_id:(%x+)'), string.match(info, '\nmaster_replid2:(%x+)')
    return run_id and promotion and run_id .. ':' .. promotion
end
-- Whether a coupon is still in the era `SERVER ERA` that the caller read, on that server.
local function is_in_era(gate, fence)
    local server, found = identity(), redis.pcall('GET', gate)
    if not server or string.sub(fence, 1, #server + 1) ~= server .. ' ' then return false end
    return found == fence .. ' open' or found == fence .. ' closed'
end
-- Counts a change of a coupon. A lower number shows the reconciler that an older state was restored into this Redis.
local function count_change(version)
    -- Delete a value that is not a number, which then looks like an older state.
    if type(redis.pcall('INCR', version)) == 'table' then redis.call('DEL', version) end
end
-- The highest revision that a script or program accepts. A higher one was written by hand: it would refuse all later writes.
local HIGHEST_REVISION = 2 ^ 40
-- A revision in Redis. A value that Firstcome did not write counts as missing, whatever its type.
local function revision_in(text)
    local number = type(text) == 'string' and #text <= 15 and string.match(text, '^%d+$') and tonumber(text)
    return number and number <= HIGHEST_REVISION and number or 0
end
-- A whole number as programs write it; nil for anything else.
local function number_in(text)
    local is_number = type(text) == 'string' and #text <= 15 and (text == '0' or string.match(text, '^-?[1-9]%d*$'))
    return is_number and tonumber(text) or nil
end
local function count_in(text)
    local number = number_in(text)
    return number and number >= 0 and number or nil
end
-- The fields of `meta`, in the order of `is_whole`.
local META = {'quantity', 'opens_at_ms', 'closes_at_ms', 'paused', 'once_per', 'waiting_list', 'allow', 'closed_early'}
-- Whether a drop has all its settings. Without one of them, users would be admitted who may not claim, may not claim now, or
-- have a coupon.
local function is_whole(fields)
    local function is_count(text) return (count_in(text) or 2 ^ 32) < 2 ^ 32 end
    local function is_flag(text) return text == '0' or text == '1' end
    local is_once = fields[5] == 'coupon' or fields[5] == 'drop'
    return is_count(fields[1]) and number_in(fields[2]) and (fields[3] == '' or number_in(fields[3])) and is_flag(fields[4])
        and is_once and is_count(fields[6]) and fields[7] and is_flag(fields[8])
end
-- The numbers of fields that `claimants` and `revoked` must have; nil if unknown. With them, a lost field is noticed.
local function expected_fields(sizes)
    local found = redis.pcall('HMGET', sizes, 'claimants', 'revoked')
    return count_in(found[1]), count_in(found[2])
end
-- Records that the script added fields to one of these hashes (or removed them, if negative). A lost field remains lost.
local function count_fields(sizes, name, change)
    local claimants, revoked = expected_fields(sizes)
    local is_known = name == 'claimants' and claimants or name == 'revoked' and revoked
    if is_known and change ~= 0 then redis.call('HINCRBY', sizes, name, change) end
end

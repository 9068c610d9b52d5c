-- Prepended to every script that identifies its server or counts changes.
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

-- Prepended to every script. All scripts have one order of KEYS:
-- 1 gate 2 revision 3 claimants 4 revoked 5 allowed 6 allow_list,
-- then meta, count, users, free, waiting, times of each drop.

-- The identity of this server: one process from one promotion to the next. nil on a replica, whose
-- data may be old.
local function identity()
    local info = redis.call('INFO', 'server', 'replication')
    if not string.find(info, '\nrole:master', 1, true) then return nil end
    local run_id, promotion = string.match(info, '\nrun_id:(%x+)'), string.match(info, '\nmaster_replid2:(%x+)')
    return run_id and promotion and run_id .. ':' .. promotion
end
-- Whether `SERVER ERA …` names this server.
local function is_here(text)
    local server = identity()
    return server and string.sub(text, 1, #server + 1) == server .. ' '
end
-- 'open' or 'closed' if the coupon is still in the era `SERVER ERA` that the caller read, on that
-- server; else nil.
local function gate_state(fence)
    local gate = redis.pcall('GET', KEYS[1])
    return is_here(fence) and (gate == fence .. ' open' and 'open' or gate == fence .. ' closed' and 'closed') or nil
end
-- A revision in Redis. A value that Firstcome did not write counts as missing, also a number above
-- `HIGHEST_REVISION` (gate.rs): because of it, all later writes would be refused.
local function revision_in(text)
    local number = type(text) == 'string' and string.match(text, '^%d+$') and tonumber(text)
    return number and number <= 2 ^ 40 and number or 0
end
-- Whether the coupon has lost a whole key that names users: `gate.lua` marks both when it opens.
local function has_lost_users(per_coupon)
    return redis.call('HEXISTS', KEYS[4], '') == 0 or per_coupon and redis.call('HEXISTS', KEYS[3], '') == 0
end
local function now_ms()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end
-- The users' revocations: `ID` if all claims of the user are void, `ID:` if they are until the
-- revocation ends, `ID:TIME` if claims admitted after that time are valid. Returns the times until
-- which the users' claims are void, by their indexes in `users`: infinite if all are; and whether
-- that will end. A user without a revocation has no entry.
local function void_times(drop, per_coupon, users)
    local times, will_end = {}, {}
    local size = redis.call('HLEN', KEYS[4])
    -- One field is usually the mark that `gate.lua` sets.
    if #users == 0 or size == 0 or size == 1 and redis.call('HEXISTS', KEYS[4], '') == 1 then return times, will_end end
    local fields = {}
    for i, user in ipairs(users) do fields[i] = per_coupon and user or drop .. ':' .. user end
    for i, text in ipairs(redis.call('HMGET', KEYS[4], unpack(fields))) do
        if text then times[i] = tonumber(string.match(text, '^%d+:(%d+)$') or '') or math.huge end
        will_end[i] = text and string.find(text, '^%d+:$')
    end
    return times, will_end
end
-- For this long, at most, an API that holds a lease of a drop answers `sold_out` without Redis. No
-- script gives a slot or a place of the drop before `lease_until` in its meta
-- (docs/decisions/0010-micro-batches.md).
local LEASE_MS = 200
-- Writes the end of a drop's lease. The write is neither logged nor replicated: after a failover or
-- a restart, the gate stays closed for longer than a lease. A server without `set_repl` logs it.
-- Returns false if Redis refuses the write.
local function write_lease(meta, ends)
    pcall(redis.set_repl, redis.REPL_NONE)
    local written = redis.pcall('HSET', meta, 'lease_until', ends)
    pcall(redis.set_repl, redis.REPL_ALL)
    return type(written) == 'number'
end
-- The version of a drop's holders, after a slot was given. It never repeats, not even after a drop
-- was lost and loaded again.
local function next_version(version, now)
    return math.max(version + 1, now)
end
-- Whether the drop is leased. If the clock was set back, a lease ends when a new one would: no API
-- counts longer than that.
local function is_leased(meta, lease_until, now)
    local ends = tonumber(lease_until)
    if ends and ends > now + LEASE_MS then write_lease(meta, now + LEASE_MS) end
    return ends and now < ends
end

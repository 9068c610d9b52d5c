-- Reads a page of a drop's holders, by their slots, for an API that answers other users `sold_out`
-- without Redis. It checks the gate as `claim.lua` does, so that the page does not come from a
-- replica, a demoted server, or another era.
-- KEYS  see identity.lua; one drop
-- ARGV  1 era of the coupon in MySQL  2 slot before the page  3 last slot of the page
-- Reply 'closed', or {version of the holders, highest slot given, user, user, …}. The last page
-- also has users on slots above the highest one given, and the first page those below 1.
-- Invariant: all pages with the same era and version together have every holder.
local server, gate = identity(), redis.pcall('GET', KEYS[1])
if not server or gate ~= server .. ' ' .. ARGV[1] .. ' open' then return 'closed' end
local count = tonumber(redis.call('GET', KEYS[8])) or 0
local first = ARGV[2] == '0' and '-inf' or '(' .. ARGV[2]
local last = tonumber(ARGV[3]) >= count and '+inf' or ARGV[3]
local version = tonumber(redis.call('HGET', KEYS[7], 'version')) or 0
return {version, count, unpack(redis.call('ZRANGEBYSCORE', KEYS[9], first, last))}

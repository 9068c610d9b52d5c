-- Lowers a loaded drop's quantity, never under what is given out, unless a newer revision of its
-- coupon was seen (`write_meta.lua`), or the coupon's gate is closed: Redis may have forgotten what is given
-- out.
-- KEYS  1 meta  2 count  3 revision  4 gate
-- ARGV  1 revision  2 quantity  3 era of the coupon in MySQL
-- Reply {lowered | unloaded | unverified | below_given_out | outdated, count}. Only `lowered` changes anything.
-- What no program of ours wrote there counts as never seen, whatever its type.
local text = redis.pcall('GET', KEYS[3])
local seen = type(text) == 'string' and #text <= 15 and string.match(text, '^%d+$') and tonumber(text) or 0
local quantity = tonumber(redis.call('HGET', KEYS[1], 'quantity') or '')
local count = tonumber(redis.call('GET', KEYS[2]) or '')
if tonumber(ARGV[1]) < seen then return {'outdated', count or 0} end
if not quantity or not count then return {'unloaded', 0} end
local server = identity()
if not server or redis.pcall('GET', KEYS[4]) ~= server .. ' ' .. ARGV[3] .. ' open' then
    return {'unverified', count}
end
if tonumber(ARGV[2]) < count then return {'below_given_out', count} end
redis.call('SET', KEYS[3], ARGV[1])
if tonumber(ARGV[2]) < quantity then redis.call('HSET', KEYS[1], 'quantity', ARGV[2]) end
return {'lowered', count}

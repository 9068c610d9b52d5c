-- Lowers a loaded drop's quantity, never under what is given out, unless a newer revision of its
-- coupon was seen (`write_meta.lua`).
-- KEYS  1 meta  2 count  3 revision
-- ARGV  1 revision  2 quantity
-- Reply {lowered | unloaded | below_given_out | outdated, count}. Only `lowered` changes anything.
-- What no program of ours wrote there counts as never seen, whatever its type.
local text = redis.pcall('GET', KEYS[3])
local seen = type(text) == 'string' and #text <= 15 and string.match(text, '^%d+$') and tonumber(text) or 0
local quantity = tonumber(redis.call('HGET', KEYS[1], 'quantity') or '')
local count = tonumber(redis.call('GET', KEYS[2]) or '')
if tonumber(ARGV[1]) < seen then return {'outdated', count or 0} end
if not quantity or not count then return {'unloaded', 0} end
if tonumber(ARGV[2]) < count then return {'below_given_out', count} end
redis.call('SET', KEYS[3], ARGV[1])
if tonumber(ARGV[2]) < quantity then redis.call('HSET', KEYS[1], 'quantity', ARGV[2]) end
return {'lowered', count}

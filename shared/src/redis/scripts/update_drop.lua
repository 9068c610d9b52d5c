-- Changes a loaded drop's quantity and pause in one step.
-- KEYS  1 meta  2 count
-- ARGV  1 quantity ('' leaves it)  2 paused '0' or '1' ('' leaves it)
-- Reply {ok, count} | {unloaded, 0} | {below_given_out, count}: a quantity under what is given out changes nothing.
if redis.call('EXISTS', KEYS[1]) == 0 then return {'unloaded', 0} end
local count = tonumber(redis.call('GET', KEYS[2]) or '')
if not count then return {'unloaded', 0} end
local quantity = tonumber(ARGV[1])
if quantity and quantity < count then return {'below_given_out', count} end
if quantity then redis.call('HSET', KEYS[1], 'quantity', quantity) end
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'paused', ARGV[2]) end
return {'ok', count}

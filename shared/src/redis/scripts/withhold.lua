-- Keeps a drop that has not opened and has no users from opening, before MySQL moves or deletes it:
-- the drop is paused until its settings are written again (`write_meta.lua`). Refuses if a newer
-- revision of its coupon was seen.
-- KEYS  1 meta  2 count  3 users  4 waiting  5 revision
-- ARGV  1 revision
-- Reply withheld | in_use | unloaded | outdated. Only `withheld` changes anything.
-- A value of the revision's key that Firstcome did not write counts as missing, whatever its type.
local text = redis.pcall('GET', KEYS[5])
local seen = type(text) == 'string' and #text <= 15 and string.match(text, '^%d+$') and tonumber(text) or 0
if tonumber(ARGV[1]) < seen then return 'outdated' end
local opens = tonumber(redis.call('HGET', KEYS[1], 'opens_at_ms') or '')
local count = tonumber(redis.call('GET', KEYS[2]) or '')
if not opens or not count then return 'unloaded' end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local people = redis.call('ZCARD', KEYS[3]) + redis.call('ZCARD', KEYS[4])
if now >= opens or count > 0 or people > 0 then return 'in_use' end
redis.call('SET', KEYS[5], ARGV[1])
redis.call('HSET', KEYS[1], 'paused', '1')
return 'withheld'

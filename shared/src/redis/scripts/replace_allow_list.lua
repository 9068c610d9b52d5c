-- Replaces a coupon's allow list with one that was gathered under a temporary key, unless the present one has a later
-- revision. The old list is freed in the background (UNLINK), because freeing a large one would delay admission.
-- KEYS  1 allowed  2 allow_list  3 the new list  4 name for the old one
-- ARGV  1 revision of the new list  2 people on it
-- Reply ok | outdated | incomplete (the gathered list lacks people, for example because Redis was emptied in the meantime).
-- Only `ok` changes anything. A value that Firstcome did not write counts as no list, whatever its type or length.
local text = redis.pcall('GET', KEYS[2])
local seen = string.match(type(text) == 'string' and text or '', '^(%d+):%d+$')
if seen and #seen <= 15 and tonumber(seen) > tonumber(ARGV[1]) then
    redis.call('UNLINK', KEYS[3])
    return 'outdated'
end
if redis.call('SCARD', KEYS[3]) ~= tonumber(ARGV[2]) then return 'incomplete' end
if redis.call('EXISTS', KEYS[1]) == 1 then
    redis.call('RENAME', KEYS[1], KEYS[4])
    redis.call('UNLINK', KEYS[4])
end
if redis.call('EXISTS', KEYS[3]) == 1 then
    redis.call('RENAME', KEYS[3], KEYS[1])
    redis.call('PERSIST', KEYS[1])
end
redis.call('SET', KEYS[2], ARGV[1] .. ':' .. ARGV[2])
return 'ok'

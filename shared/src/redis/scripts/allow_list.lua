-- Replaces a coupon's allow list by the one that was gathered under a temporary name.
-- KEYS  see identity.lua; 7 the new list
-- ARGV  1 revision of the new list  2 number of users on it
-- Returns ok | outdated (the present list has a later revision; the new one expires) | incomplete
-- (the new list is not complete, for example because Redis was emptied). Only `ok` changes
-- anything.
-- Redis frees the old list in the background, because freeing a large one would delay admission.
-- A value of `allow_list` that Firstcome did not write counts as missing, whatever its type or
-- length.
local text = redis.pcall('GET', KEYS[6])
local revision = revision_in(string.match(type(text) == 'string' and text or '', '^(%d+):%d+$'))
if revision > tonumber(ARGV[1]) then return 'outdated' end
local people = tonumber(ARGV[2])
if redis.call('SCARD', KEYS[7]) ~= people then return 'incomplete' end
redis.call('UNLINK', KEYS[5])
if people > 0 then redis.call('RENAME', KEYS[7], KEYS[5]) end
redis.call('PERSIST', KEYS[5])
redis.call('SET', KEYS[6], ARGV[1] .. ':' .. ARGV[2])
return 'ok'

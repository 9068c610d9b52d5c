-- Changes a coupon's allow list.
-- KEYS  see identity.lua; 7 the new list, collected under a temporary name (replace)
-- ARGV  1 operation: replace, add or remove  2 revision of the list after the change
--       3 number of users on the list after the change  4 revision before the change (add, remove)
--       5.. user ids (add, remove)
--   replace      replaces the list with the new one, unless the present one has a later revision.
--                Redis frees the old list in the background, because freeing a large one would
--                delay admission.
--                ok | outdated (the new list expires) | incomplete (the new list is not complete, for example because
--                Redis was emptied)
--   add, remove  adds or removes users. A change applies only to the revision of the list that it
--                changed in MySQL, so that concurrent changes cannot be applied out of order.
--                ok | known (the list already has this change) | other (the list has another
--                revision or other users: it must be written again)
-- Only `ok` changes anything.
-- A value that Firstcome did not write counts as missing, whatever its type or length.
local how, new, people = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local text = redis.pcall('GET', KEYS[6])
local revision, size = string.match(type(text) == 'string' and text or '', '^(%d+):(%d+)$')
revision, size = revision_in(revision), tonumber(size) or 0

if how == 'replace' then
    if revision > new then return 'outdated' end
    if redis.call('SCARD', KEYS[7]) ~= people then return 'incomplete' end
    redis.call('UNLINK', KEYS[5])
    if people > 0 then redis.call('RENAME', KEYS[7], KEYS[5]) end
    redis.call('PERSIST', KEYS[5])
    redis.call('SET', KEYS[6], ARGV[2] .. ':' .. ARGV[3])
    return 'ok'
end

local now = redis.pcall('SCARD', KEYS[5])
if now == size and revision >= new then return 'known' end
if now ~= size or revision ~= tonumber(ARGV[4]) then return 'other' end
-- Lua limits the number of arguments per call.
local listed = 0
for i = 5, #ARGV, 1000 do
    local page = redis.call('SMISMEMBER', KEYS[5], unpack(ARGV, i, math.min(i + 999, #ARGV)))
    for _, is_listed in ipairs(page) do listed = listed + is_listed end
end
local change = how == 'add' and #ARGV - 4 - listed or -listed
if now + change ~= people then return 'other' end
local word = how == 'add' and 'SADD' or 'SREM'
for i = 5, #ARGV, 1000 do redis.call(word, KEYS[5], unpack(ARGV, i, math.min(i + 999, #ARGV))) end
redis.call('SET', KEYS[6], ARGV[2] .. ':' .. ARGV[3], 'KEEPTTL')
return 'ok'

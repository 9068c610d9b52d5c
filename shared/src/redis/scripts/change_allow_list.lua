-- Applies one change of a coupon's allow list: adds or removes people. The revisions are a chain: a change is applied only
-- to the revision that it was made to in MySQL, so changes that arrive out of order are never mixed up.
-- KEYS  1 allowed  2 allow_list
-- ARGV  1 revision of the list before  2 revision of the change  3 people on the list after it  4 add or remove  5.. user ids
-- Reply ok | known (the list already has this change) | other (the list is not the one before the change, or incomplete:
-- it must be rewritten). Only `ok` changes anything, with one exception: if the size is wrong afterwards, the reply is
-- `other`, and admission sees the wrong size, too.
-- A value that Firstcome did not write counts as no list, whatever its type or length.
local text = redis.pcall('GET', KEYS[2])
local revision, size = string.match(type(text) == 'string' and text or '', '^(%d+):(%d+)$')
if revision and #revision > 15 then revision, size = nil, nil end
revision, size = tonumber(revision or '') or 0, tonumber(size or '') or 0
local now = redis.pcall('SCARD', KEYS[1])
if now == size and revision >= tonumber(ARGV[2]) then return 'known' end
if now ~= size or revision ~= tonumber(ARGV[1]) then return 'other' end
local command = ARGV[4] == 'add' and 'SADD' or 'SREM'
-- In parts, because Lua limits the number of arguments of one call.
for i = 5, #ARGV, 1000 do redis.call(command, KEYS[1], unpack(ARGV, i, math.min(i + 999, #ARGV))) end
redis.call('SET', KEYS[2], ARGV[2] .. ':' .. ARGV[3], 'KEEPTTL')
return redis.call('SCARD', KEYS[1]) == tonumber(ARGV[3]) and 'ok' or 'other'

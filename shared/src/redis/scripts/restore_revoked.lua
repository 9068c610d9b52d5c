-- Makes revocations known that Redis may have lost. A later one of the same person stays, and so
-- does the end of one, unless MySQL has another.
-- KEYS  1 revoked
-- ARGV  threes: field, number of the revocation, until when claims are void ('' every one)
-- Reply how many were not known
local news = 0
for i = 1, #ARGV, 3 do
    local field, id, over = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    local known, ended = string.match(redis.call('HGET', KEYS[1], field) or '', '^(%d+):?(%d*)$')
    local later = known and (tonumber(known) > tonumber(id) or (known == id and (over == '' or ended == over)))
    if not later then
        redis.call('HSET', KEYS[1], field, over == '' and id or id .. ':' .. over)
        news = news + 1
    end
end
return news

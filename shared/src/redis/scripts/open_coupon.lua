-- Opens a coupon that was compared in an era, unless its keys were lost since then or the server is another.
-- KEYS  1 gate
-- ARGV  1 `SERVER ERA`, as read before the topic was
-- Reply 1 open | 0 stale
if not is_in_era(KEYS[1], ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1] .. ' open')
return 1

-- Closes a coupon that was verified in an epoch that is over; in any other it stays as it is.
-- KEYS  1 verified
-- ARGV  1 epoch
local found = redis.pcall('GET', KEYS[1])
if found == ARGV[1] then redis.call('DEL', KEYS[1]) end

-- Adds a user, unless the key has expired meanwhile: it would come back without its other users and
-- without its expiry.
--
-- KEYS[1]   the users' key
-- ARGV[1]   1 if the key may be created
-- ARGV[2]   the command, followed by its arguments
-- Returns 1 if the command ran, 0 if the key is gone.
if ARGV[1] ~= '1' and redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call(ARGV[2], KEYS[1], unpack(ARGV, 3))
return 1

-- Adds a user, unless they are there in any spelling, or the key has expired meanwhile: it
-- would come back without its other users and without its expiry.
--
-- KEYS[1]   the users' key
-- ARGV[1]   1 if the key may be created
-- ARGV[2]   the command that finds a member
-- ARGV[3]   the number of spellings of this user, followed by the spellings
-- ARGV[…]   the command that adds, followed by its arguments
-- Returns 1 if the user is there, 0 if the key is gone.
if ARGV[1] ~= '1' and redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local last = 3 + ARGV[3]
for i = 4, last do
  local found = redis.call(ARGV[2], KEYS[1], ARGV[i])
  if found and found ~= 0 then return 1 end
end
redis.call(ARGV[last + 1], KEYS[1], unpack(ARGV, last + 2))
return 1

-- One consistent look at the slots from..to of a drop. Reads only.
-- KEYS  1 count  2 users  3 free
-- ARGV  1 from  2 to (a number or '+inf')
-- Reply {count or '', |users|, |free|, [user, slot, …] in slot order, [free slot, …]}
return {
    redis.call('GET', KEYS[1]) or '',
    redis.call('ZCARD', KEYS[2]),
    redis.call('ZCARD', KEYS[3]),
    redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[1], ARGV[2], 'WITHSCORES'),
    redis.call('ZRANGEBYSCORE', KEYS[3], ARGV[1], ARGV[2]),
}

#!/usr/bin/env bash
# Prints SQL that copies from Redis to MySQL what MySQL lost, after a restore from an older dump or
# a failover to a lagging replica: settings, newer coupons, and drops. Passes restore revocations.
# Changes nothing itself (docs/OPERATIONS.md, "MySQL fails over" and "Restore MySQL from a dump").
# Needs redis-cli and REDIS_URL, and REDIS_KEY_PREFIX if it is not fc.
set -euo pipefail

prefix=${REDIS_KEY_PREFIX:-fc}
redis() { redis-cli -e -u "$REDIS_URL" "$@"; }
keys() { redis --scan --pattern "$prefix:{*}:$1" | sort -u; }
coupon_of() { local rest=${1#"$prefix:{"} && echo "${rest%%\}*}"; }
number() { [[ $1 =~ ^[0-9]+$ ]] && echo "$1" || echo NULL; }
text() { echo "'${1//[\'\\]/}'"; }

[[ -n $(keys 'drop:*:meta') ]] || { echo "no coupon in Redis has keys below $prefix: set REDIS_KEY_PREFIX" >&2 && exit 1; }
cat << 'SQL'
SET time_zone = '+00:00';
CREATE TEMPORARY TABLE redis_drops (drop_id BIGINT PRIMARY KEY, coupon_id BIGINT NOT NULL, quantity INT UNSIGNED NOT NULL, opens_ms BIGINT NOT NULL,
    closes_ms BIGINT, paused BOOLEAN, once_per VARCHAR(6) NOT NULL, waiting_list INT UNSIGNED, closed_early BOOLEAN, allow_rule VARCHAR(70),
    given BIGINT, revision BIGINT);
SQL

fields=(quantity opens_at_ms closes_at_ms paused once_per waiting_list closed_early allow)
keys 'drop:*:meta' | while read -r key; do
    drop=${key%:meta}
    mapfile -t of < <(redis HMGET "$key" "${fields[@]}")
    echo "INSERT INTO redis_drops VALUES ($(number "${drop##*:}"), $(number "$(coupon_of "$key")"), $(number "${of[0]}"), $(number "${of[1]}")," \
        "$(number "${of[2]}"), $(number "${of[3]}"), $(text "${of[4]}"), $(number "${of[5]}"), $(number "${of[6]}"), NULLIF($(text "${of[7]}"), '')," \
        "$(number "$(redis GET "$drop:count")"), $(number "$(redis GET "${drop%%:drop:*}:revision")"));"
done

cat << 'SQL'
START TRANSACTION;
-- Drops from which no slot was given are created again by their schedule, under the same id. Not restored, because Redis may still have
-- days that an operator has removed, with older settings. If MySQL lacks a change of the settings, its schedule may lack the day.
DELETE t FROM redis_drops t JOIN coupons c ON c.id = t.coupon_id
    WHERE t.given = 0 AND c.schedule IS NOT NULL AND t.revision <= c.revision AND t.drop_id NOT IN (SELECT id FROM drops);
-- Coupons created since the dump. Redis does not store their names and later days.
INSERT INTO coupons (id, name, quantity, once_per)
    SELECT coupon_id, CONCAT('Coupon ', coupon_id, ' (restored)'), MAX(quantity), MAX(once_per) FROM redis_drops
    WHERE coupon_id NOT IN (SELECT id FROM coupons) GROUP BY coupon_id;
-- Drops. The id of a daily coupon's drop is a hash of the coupon and the local date (shared/src/mysql/ids.rs), which is at most
-- one day from the date in UTC. Other drops need no date.
CREATE TEMPORARY TABLE local_dates AS
    SELECT p.drop_id, p.local_date
    FROM (SELECT t.drop_id, t.coupon_id, DATE(FROM_UNIXTIME(t.opens_ms / 1000)) + INTERVAL a.days DAY AS local_date
        FROM redis_drops t JOIN (SELECT -1 AS days UNION SELECT 0 UNION SELECT 1) a) p
    WHERE p.drop_id = CONV(LEFT(SHA2(CONCAT_WS(':', p.coupon_id, p.local_date, 0), 256), 10), 16, 10);
INSERT INTO drops (id, coupon_id, local_date, opens_at, closes_at, quantity)
    SELECT t.drop_id, t.coupon_id, l.local_date, FROM_UNIXTIME(t.opens_ms / 1000), FROM_UNIXTIME(t.closes_ms / 1000), t.quantity
    FROM redis_drops t LEFT JOIN local_dates l ON l.drop_id = t.drop_id
    WHERE t.drop_id NOT IN (SELECT id FROM drops);
-- Settings. Each drop has its coupon's settings. Slot limits refer to the quantity, so they follow in this transaction.
UPDATE /*+ SET_VAR(foreign_key_checks = 0) */ drops d JOIN redis_drops t ON t.drop_id = d.id AND t.coupon_id = d.coupon_id
    JOIN coupons c ON c.id = d.coupon_id AND t.revision >= c.revision
    LEFT JOIN (SELECT drop_id, MAX(slot) AS slot FROM issued_coupons GROUP BY drop_id) h ON h.drop_id = d.id
    SET d.quantity = GREATEST(t.quantity, COALESCE(h.slot, 0)),
        d.opens_at = FROM_UNIXTIME(t.opens_ms / 1000), d.closes_at = FROM_UNIXTIME(t.closes_ms / 1000),
        d.closed_early = COALESCE(t.closed_early, FALSE)
    WHERE d.sealed_at IS NULL;
UPDATE slot_limits l JOIN drops d ON d.id = l.drop_id SET l.quantity = d.quantity WHERE l.slot_limit <= d.quantity AND l.quantity <> d.quantity;
INSERT INTO slot_limits (drop_id, slot_limit, coupon_id, person_scope, quantity, once_per)
    SELECT d.id, d.quantity, d.coupon_id, IF(c.once_per = 'coupon', 0, d.id), d.quantity, c.once_per FROM drops d JOIN coupons c ON c.id = d.coupon_id
    LEFT JOIN slot_limits l ON l.drop_id = d.id AND l.slot_limit = d.quantity WHERE l.drop_id IS NULL;
UPDATE slot_limits l JOIN drops d ON d.id = l.drop_id AND d.quantity < l.slot_limit
    JOIN issued_coupons i ON i.drop_id = l.drop_id AND i.slot_limit = l.slot_limit SET i.slot_limit = d.quantity;
DELETE l FROM slot_limits l JOIN drops d ON d.id = l.drop_id WHERE l.slot_limit > d.quantity;
UPDATE coupons c JOIN (SELECT *, ROW_NUMBER() OVER (PARTITION BY coupon_id ORDER BY opens_ms DESC) AS place FROM redis_drops) t
        ON t.coupon_id = c.id AND t.place = 1 AND t.revision >= c.revision
    SET c.quantity = t.quantity, c.paused = COALESCE(t.paused, FALSE), c.waiting_list = COALESCE(t.waiting_list, 0), c.allow_rule = t.allow_rule;
COMMIT;
SQL

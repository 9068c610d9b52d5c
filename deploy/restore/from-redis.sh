#!/usr/bin/env bash
# Prints SQL that copies from Redis to MySQL what MySQL lost, after a restore from an older dump or
# a failover to a lagging replica: settings, newer coupons, drops, and revocations.
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
CREATE TEMPORARY TABLE redis_revocations (number BIGINT, coupon_id BIGINT NOT NULL, field VARCHAR(150) COLLATE ascii_bin NOT NULL, again BOOLEAN NOT NULL,
    over_ms BIGINT);
SQL

fields=(quantity opens_at_ms closes_at_ms paused once_per waiting_list closed_early allow)
keys 'drop:*:meta' | while read -r key; do
    drop=${key%:meta}
    mapfile -t of < <(redis HMGET "$key" "${fields[@]}")
    echo "INSERT INTO redis_drops VALUES ($(number "${drop##*:}"), $(number "$(coupon_of "$key")"), $(number "${of[0]}"), $(number "${of[1]}")," \
        "$(number "${of[2]}"), $(number "${of[3]}"), $(text "${of[4]}"), $(number "${of[5]}"), $(number "${of[6]}"), NULLIF($(text "${of[7]}"), '')," \
        "$(number "$(redis GET "$drop:count")"), $(number "$(redis GET "${drop%%:drop:*}:revision")"));"
done

# Each field is a user id (after `DROP:` if one per drop is allowed). The value is `ID`, `ID:` if the
# user may claim again later, or `ID:TIME` if the user may have claimed again since. The nameless field only marks that the key is
# complete.
keys revoked | while read -r key; do
    redis HGETALL "$key" | while read -r field && read -r value; do
        [[ -n $field ]] || continue
        over=${value#"${value%%:*}"} again=FALSE
        [[ -z $over ]] || again=TRUE
        echo "INSERT INTO redis_revocations VALUES ($(number "${value%%:*}"), $(number "$(coupon_of "$key")"), $(text "$field"), $again, $(number "${over#:}"));"
    done
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
-- Revocations, with their ids in Redis. They include the rows that they void.
CREATE TEMPORARY TABLE void_claims AS
    SELECT t.number, c.id AS coupon_id, t.again, t.over_ms, IF(c.once_per = 'drop', SUBSTRING_INDEX(t.field, ':', 1), NULL) AS drop_id,
        IF(c.once_per = 'drop', SUBSTRING(t.field, LOCATE(':', t.field) + 1), t.field) AS user_id, c.once_per
    FROM redis_revocations t JOIN coupons c ON c.id = t.coupon_id;
INSERT INTO revoked_coupons (id, coupon_id, drop_id, user_id, slot, code, claimed_at, issued_at, issued_by, reason, revoked_by, may_claim_again, again_from, once_per)
    SELECT v.number, v.coupon_id, COALESCE(i.drop_id, v.drop_id, (SELECT MIN(d.id) FROM drops d WHERE d.coupon_id = v.coupon_id)), v.user_id, i.slot,
        i.code, i.claimed_at, i.issued_at, i.issued_by, 'known to Redis', 'restore', v.again, FROM_UNIXTIME(v.over_ms / 1000), v.once_per
    FROM void_claims v LEFT JOIN issued_coupons i ON i.coupon_id = v.coupon_id AND i.user_id = v.user_id
        AND (v.drop_id IS NULL OR i.drop_id = v.drop_id) AND (v.over_ms IS NULL OR i.claimed_at <= FROM_UNIXTIME(v.over_ms / 1000))
    WHERE v.number IS NOT NULL AND (v.drop_id IS NULL OR v.drop_id IN (SELECT id FROM drops))
    ON DUPLICATE KEY UPDATE again_from = COALESCE(revoked_coupons.again_from, FROM_UNIXTIME(v.over_ms / 1000));
CREATE TEMPORARY TABLE void_rows AS
    SELECT DISTINCT i.drop_id, i.slot FROM issued_coupons i JOIN void_claims v ON i.coupon_id = v.coupon_id AND i.user_id = v.user_id
    WHERE (v.drop_id IS NULL OR i.drop_id = v.drop_id) AND (v.over_ms IS NULL OR i.claimed_at <= FROM_UNIXTIME(v.over_ms / 1000));
DELETE i FROM issued_coupons i JOIN void_rows v ON i.drop_id = v.drop_id AND i.slot = v.slot;
UPDATE drops d JOIN (SELECT drop_id, COUNT(*) AS number FROM void_rows GROUP BY drop_id) v ON v.drop_id = d.id
    SET d.sealed_rows = GREATEST(CAST(d.sealed_rows AS SIGNED) - v.number, 0), d.codes_erased_at = NULL
    WHERE d.sealed_at IS NOT NULL;
-- A promise to a user whose claim is void is not owed any more.
UPDATE broken_promises p JOIN void_claims v ON v.coupon_id = p.coupon_id AND v.user_id = p.user_id
    SET p.mended_at = UTC_TIMESTAMP(3)
    WHERE p.mended_at IS NULL AND v.over_ms IS NULL AND (v.drop_id IS NULL OR v.drop_id = p.drop_id);
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

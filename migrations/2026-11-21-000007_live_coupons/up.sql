-- The cost of reading the live coupons depends only on the open ones: each query for them uses one
-- of these indexes. A virtual column is added instantly, indexes while others read and write
-- (INPLACE, LOCK=NONE). Each statement can be run again after a crash half-way.
--   daily_until     the last local date of a daily schedule, '9999-12-31' without one, NULL for any other: such a coupon may need
--                   drops although none is unsealed
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'coupons' AND column_name = 'daily_until');
SET @sql = IF(@todo, 'ALTER TABLE coupons ADD COLUMN daily_until VARCHAR(10) AS (
    IF(schedule->>''$.type'' = ''daily'', IF(JSON_TYPE(schedule->''$.last_day'') = ''STRING'', LEFT(schedule->>''$.last_day'', 10),
    ''9999-12-31''), NULL)) VIRTUAL, ALGORITHM = INSTANT', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'coupons' AND index_name = 'coupons_daily_until');
SET @sql = IF(@todo, 'ALTER TABLE coupons ADD KEY coupons_daily_until (daily_until), ALGORITHM = INPLACE, LOCK = NONE', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

-- The last drop of a coupon that has opened.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'drops' AND index_name = 'drops_opened');
SET @sql = IF(@todo, 'ALTER TABLE drops ADD KEY drops_opened (coupon_id, opens_at), ALGORITHM = INPLACE, LOCK = NONE', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

-- Coupons created with an `Idempotency-Key`: the coupon that a repeated request gets. Rows older
-- than a week are deleted.
CREATE TABLE IF NOT EXISTS idempotency_keys (
    idempotency_key VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    body_hash       BINARY(32)  NOT NULL,
    coupon_id       BIGINT      NOT NULL,
    created_at      DATETIME(3) NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    KEY idempotency_keys_age (created_at)
) DEFAULT CHARACTER SET utf8mb4;

-- The fencing token of a coupon's settings: every writer to Redis first takes the next number here,
-- and Redis refuses a number older than the last it has seen. Can be run again after a crash
-- half-way.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'coupons' AND column_name = 'revision');
SET @sql = IF(@todo, 'ALTER TABLE coupons ADD COLUMN revision BIGINT UNSIGNED NOT NULL DEFAULT 1', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

-- The era of a coupon's data in Redis: counted up whenever it may have lost something and is about to be rebuilt. Admission
-- compares it with the coupon's `gate` in Redis. Programs of earlier releases do not name it.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'coupons' AND column_name = 'era');
SET @sql = IF(@todo, 'ALTER TABLE coupons ADD COLUMN era BIGINT UNSIGNED NOT NULL DEFAULT 0, ALGORITHM = INSTANT', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

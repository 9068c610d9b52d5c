-- The span of a claim, as a W3C traceparent; NULL if it was not traced. INVISIBLE, so that rows
-- read as their contract says.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'issued_coupons' AND column_name = 'traceparent');
SET @sql = IF(@todo, 'ALTER TABLE issued_coupons ADD COLUMN traceparent CHAR(55) CHARACTER SET ascii COLLATE ascii_bin NULL INVISIBLE, ALGORITHM = INSTANT', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'failed_claims' AND column_name = 'traceparent');
SET @sql = IF(@todo, 'ALTER TABLE failed_claims ADD COLUMN traceparent CHAR(55) CHARACTER SET ascii COLLATE ascii_bin NULL, ALGORITHM = INSTANT', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

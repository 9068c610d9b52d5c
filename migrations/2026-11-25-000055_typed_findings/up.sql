-- The failed claim that a finding concerns, and the trace of its claim. NULL in findings of earlier
-- releases, which have both in their detail.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'reconcile_findings' AND column_name = 'dead_letter');
SET @sql = IF(@todo, 'ALTER TABLE reconcile_findings ADD COLUMN dead_letter BIGINT NULL, ADD COLUMN trace_id CHAR(32) CHARACTER SET ascii COLLATE ascii_bin NULL, ALGORITHM = INSTANT', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

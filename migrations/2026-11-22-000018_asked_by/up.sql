-- The operator who asked for a pass, by the name in the request; NULL if nobody did, or without a
-- name.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'reconcile_runs' AND column_name = 'asked_by');
SET @sql = IF(@todo, 'ALTER TABLE reconcile_runs ADD COLUMN asked_by VARCHAR(100) CHARACTER SET utf8mb4 NULL', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

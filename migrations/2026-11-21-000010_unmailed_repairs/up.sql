-- Repairs of a drop that exceeded the rate of mails and wait for the next mail. Can be run again
-- after a crash half-way.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'alerts' AND column_name = 'unmailed_repairs');
SET @sql = IF(@todo, 'ALTER TABLE alerts ADD COLUMN unmailed_repairs INT UNSIGNED NOT NULL DEFAULT 0', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

-- The newest version of messages that a process reads. Programs of earlier releases do not name it, and read version 1. An API
-- writes version 2 only if every consumer and reconciler of the last day reads it.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'processes' AND column_name = 'reads_messages');
SET @sql = IF(@todo, 'ALTER TABLE processes ADD COLUMN reads_messages BIGINT NOT NULL DEFAULT 1, ALGORITHM = INSTANT', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

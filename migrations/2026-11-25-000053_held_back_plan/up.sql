-- A hash of a drop's repairs that were held back. A confirmation covers these and no others. NULL:
-- a reconciler of an earlier release recorded only their number, and a person has to see them once
-- more.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'held_back' AND column_name = 'fingerprint');
SET @sql = IF(@todo, 'ALTER TABLE held_back ADD COLUMN fingerprint BIGINT UNSIGNED NULL, ALGORITHM = INSTANT', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

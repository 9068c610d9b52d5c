-- Since when nobody of a sealed drop is named any more, neither by id nor by code (PEOPLE_KEPT_SECONDS). It takes the place of
-- people_erased_at: a reconciler of an earlier release replaces ids only, and goes on setting that one until it is replaced itself.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'drops' AND column_name = 'codes_erased_at');
SET @sql = IF(@todo, 'ALTER TABLE drops ADD COLUMN codes_erased_at DATETIME(3) NULL, ALGORITHM = INSTANT', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

-- Since when nobody of a sealed drop is named any more (PEOPLE_KEPT_SECONDS); NULL while people are.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'drops' AND column_name = 'people_erased_at');
SET @sql = IF(@todo, 'ALTER TABLE drops ADD COLUMN people_erased_at DATETIME(3) NULL', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

-- When a pass began to rebuild the drop that Redis had lost; NULL once a pass has compared the
-- number of restored users and none is missing.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'known_admissions' AND column_name = 'lost_at');
SET @sql = IF(@todo, 'ALTER TABLE known_admissions ADD COLUMN lost_at DATETIME(3) NULL, ALGORITHM = INSTANT', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

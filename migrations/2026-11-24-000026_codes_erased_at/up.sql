-- When the user ids and codes of a sealed drop were erased (PEOPLE_KEPT_SECONDS). Replaces
-- people_erased_at: a reconciler of an earlier release replaces only ids, and still sets that
-- column until it is upgraded.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'drops' AND column_name = 'codes_erased_at');
SET @sql = IF(@todo, 'ALTER TABLE drops ADD COLUMN codes_erased_at DATETIME(3) NULL, ALGORITHM = INSTANT', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

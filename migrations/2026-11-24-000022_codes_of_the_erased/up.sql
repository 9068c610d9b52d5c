-- Rows issued from `since` on have codes of this key. A pass compares some of them with it, and reports a key that was lost or
-- replaced (docs/decisions/0021-codes.md). Rows from before the table of the key have random codes.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'code_key' AND column_name = 'since');
SET @sql = IF(@todo, 'ALTER TABLE code_key ADD COLUMN since DATETIME(3) NOT NULL DEFAULT ''1970-01-01 00:00:00.000'', ALGORITHM = INSTANT', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

UPDATE code_key SET since = (SELECT run_on FROM __diesel_schema_migrations WHERE version = '20261122000017')
    WHERE since = '1970-01-01' AND EXISTS (SELECT 1 FROM __diesel_schema_migrations WHERE version = '20261122000017');

-- Anybody with the key could compute the user of an erased row from its code. The next deep pass
-- replaces the codes of drops whose users an earlier release erased.
UPDATE drops SET people_erased_at = NULL WHERE people_erased_at IS NOT NULL;

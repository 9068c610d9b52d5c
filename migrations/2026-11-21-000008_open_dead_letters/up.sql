-- Unresolved dead letters are counted, and read by a page of slots, from the index alone, whatever
-- else the table contains. Resolved ones are deleted through it, too. Can be run again after a
-- crash half-way.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'failed_claims' AND index_name = 'failed_claims_open');
SET @sql = IF(@todo, 'ALTER TABLE failed_claims ADD KEY failed_claims_open (resolved_at, drop_id, slot, coupon_id, user_id)', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

SET @todo = (SELECT COUNT(*) > 0 FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'failed_claims' AND index_name = 'failed_claims_unresolved');
SET @sql = IF(@todo, 'ALTER TABLE failed_claims DROP KEY failed_claims_unresolved', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

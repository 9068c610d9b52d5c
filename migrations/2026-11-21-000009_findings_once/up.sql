-- A finding that persists is one row, however many passes see it. Passes over everything are
-- numbered; a finding has the first number that saw it (seen_from) and the first that no longer did
-- (seen_to, NULL: it still exists), and `content` is a hash of its content. Other runs (`number`
-- NULL) and findings from before this migration belong to their run alone, by run_id.
--   drops_run     the run with the same `drops`, if they were not written again
--   nothing_new   clean, or the same as the previous pass: kept only for a short time
-- heartbeat_at is no longer written. A later migration drops it, once no process of an older
-- release runs. Each statement can be run again after a crash half-way.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'reconcile_runs' AND column_name = 'number');
SET @sql = IF(@todo, 'ALTER TABLE reconcile_runs
    ADD COLUMN number BIGINT UNSIGNED NULL,
    ADD COLUMN drops_hash BIGINT NULL,
    ADD COLUMN drops_run CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NULL,
    ADD COLUMN nothing_new BOOLEAN NOT NULL DEFAULT FALSE,
    MODIFY COLUMN heartbeat_at DATETIME(3) NULL,
    ADD UNIQUE KEY reconcile_runs_number (number),
    ADD KEY reconcile_runs_drops_run (drops_run),
    ADD KEY reconcile_runs_nothing_new (nothing_new, started_at)', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

UPDATE reconcile_runs SET nothing_new = TRUE WHERE status = 'clean' AND NOT nothing_new;

-- Deleting a run must not delete findings that later runs refer to, nor thousands of them in one statement.
SET @todo = (SELECT COUNT(*) > 0 FROM information_schema.table_constraints
    WHERE table_schema = DATABASE() AND table_name = 'reconcile_findings' AND constraint_name = 'reconcile_findings_run'
        AND constraint_type = 'FOREIGN KEY');
SET @sql = IF(@todo, 'ALTER TABLE reconcile_findings DROP FOREIGN KEY reconcile_findings_run', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

-- reconcile_findings_applied: the number of a drop's repairs since its last mail.
-- reconcile_findings_old: deleting unnumbered ones.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'reconcile_findings' AND column_name = 'seen_from');
SET @sql = IF(@todo, 'ALTER TABLE reconcile_findings
    ADD COLUMN seen_from BIGINT UNSIGNED NULL,
    ADD COLUMN seen_to BIGINT UNSIGNED NULL,
    ADD COLUMN content BIGINT NULL,
    ADD KEY reconcile_findings_seen (seen_to, seen_from),
    ADD KEY reconcile_findings_old (seen_from, created_at),
    ADD KEY reconcile_findings_applied (drop_id, result, created_at)', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

-- Promises that are not resolved, without resolved ones; and deleting those resolved long ago.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'broken_promises' AND index_name = 'broken_promises_mended');
SET @sql = IF(@todo, 'ALTER TABLE broken_promises ADD KEY broken_promises_mended (mended_at, drop_id)', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

-- Each pass reads the open promises: an index, so that the cost depends on the open ones, not on
-- all there ever were. Can be run again after a crash half-way.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'broken_promises' AND index_name = 'broken_promises_open');
SET @sql = IF(@todo, 'ALTER TABLE broken_promises ADD KEY broken_promises_open (mended_at)', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

-- The number of a drop's repairs that the repair limit held back, as last shown to a person: a
-- confirmation is bound to it.
CREATE TABLE IF NOT EXISTS held_back (
    drop_id    BIGINT       NOT NULL PRIMARY KEY,
    repairs    INT UNSIGNED NOT NULL,
    run_id     CHAR(36)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    planned_at DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3))
) DEFAULT CHARACTER SET utf8mb4;

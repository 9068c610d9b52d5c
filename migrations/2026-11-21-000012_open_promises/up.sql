-- Each pass asks for the promises that are still to be kept: an index, so that this costs what is
-- open and not what ever was.
-- Can be run again after a crash half-way.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'broken_promises' AND index_name = 'broken_promises_open');
SET @sql = IF(@todo, 'ALTER TABLE broken_promises ADD KEY broken_promises_open (mended_at)', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

-- How many repairs of a drop the repair limit held back, as a person saw it last: what they
-- confirm is bound to it.
CREATE TABLE IF NOT EXISTS held_back (
    drop_id    BIGINT       NOT NULL PRIMARY KEY,
    repairs    INT UNSIGNED NOT NULL,
    run_id     CHAR(36)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    planned_at DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3))
) DEFAULT CHARACTER SET utf8mb4;

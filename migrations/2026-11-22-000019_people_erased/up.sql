-- When the user ids of a sealed drop were erased (PEOPLE_KEPT_SECONDS); NULL while they exist.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'drops' AND column_name = 'people_erased_at');
SET @sql = IF(@todo, 'ALTER TABLE drops ADD COLUMN people_erased_at DATETIME(3) NULL', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

-- The drop of a coupon that was sealed last: a Redis that knows of it knows of all earlier ones.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'drops' AND index_name = 'drops_sealed');
SET @sql = IF(@todo, 'ALTER TABLE drops ADD KEY drops_sealed (coupon_id, sealed_at), ALGORITHM = INPLACE, LOCK = NONE', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

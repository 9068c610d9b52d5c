-- Codes have drop and slot in front (docs/decisions/0021-codes.md), so they are longer. The column grows without a copy of the table:
-- below 256 bytes the length takes one byte before and after.
SET @todo = (SELECT character_maximum_length < 64 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'issued_coupons' AND column_name = 'code');
SET @sql = IF(@todo, 'ALTER TABLE issued_coupons MODIFY COLUMN code VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL
    DEFAULT (HEX(RANDOM_BYTES(10))), ALGORITHM = INPLACE, LOCK = NONE', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

SET @todo = (SELECT character_maximum_length < 64 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'revoked_coupons' AND column_name = 'code');
SET @sql = IF(@todo, 'ALTER TABLE revoked_coupons MODIFY COLUMN code VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL,
    ALGORITHM = INPLACE, LOCK = NONE', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

-- Claims made before this time keep the short code that their user was shown. NULL in a new
-- installation: there are none. An hour from now: until then programs of the previous release may
-- run, and they write short codes.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'code_key' AND column_name = 'prefixed_from');
SET @sql = IF(@todo, 'ALTER TABLE code_key ADD COLUMN prefixed_from DATETIME(3) NULL, ALGORITHM = INSTANT', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

UPDATE code_key SET prefixed_from = UTC_TIMESTAMP(3) + INTERVAL 1 HOUR WHERE prefixed_from IS NULL;

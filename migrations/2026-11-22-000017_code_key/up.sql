-- The key that codes are derived with (docs/decisions/0021-codes.md): a claim whose row is written again gets the same code.
-- Drawn by `firstcome-api migrate`, or where the table was copied empty by whoever writes the first row.
CREATE TABLE IF NOT EXISTS code_key (
    id     TINYINT       NOT NULL PRIMARY KEY,
    secret VARBINARY(32) NOT NULL,
    CONSTRAINT code_key_is_one CHECK (id = 1 AND LENGTH(secret) = 32)
) DEFAULT CHARACTER SET utf8mb4;

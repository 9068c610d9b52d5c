-- The dead-letter table: messages the consumer could not turn into a row, and claims inserted by
-- hand. The reconciler reissues them. `source_hash` (SHA-256 of topic, partition, offset, timestamp
-- and payload) gives a message that is read twice only one row.
CREATE TABLE IF NOT EXISTS failed_claims (
    id                BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    coupon_id         BIGINT       NULL,
    drop_id           BIGINT       NULL,
    slot              BIGINT       NULL,
    user_id           VARCHAR(64)  CHARACTER SET ascii COLLATE ascii_bin NULL,
    claimed_at        DATETIME(3)  NULL,
    payload           MEDIUMBLOB   NULL,
    reason            VARCHAR(64)  NOT NULL,
    error             TEXT         NULL,
    attempts          INT UNSIGNED NOT NULL DEFAULT 1,
    failed_at         DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    source_partition  INT          NULL,
    source_offset     BIGINT       NULL,
    source_hash       BINARY(32)   NULL,
    resolved_at       DATETIME(3)  NULL,
    resolution        VARCHAR(64)  NULL,
    resolution_detail TEXT         NULL,
    resolved_by_run   CHAR(36)     CHARACTER SET ascii COLLATE ascii_bin NULL,
    UNIQUE KEY failed_claims_source (source_hash),
    KEY failed_claims_unresolved (resolved_at, drop_id, slot),
    KEY failed_claims_person (coupon_id, user_id)
) DEFAULT CHARACTER SET utf8mb4;

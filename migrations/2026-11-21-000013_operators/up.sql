-- The log of operators' actions, each row written in the transaction of its action; and drops
-- closed by an operator. Each statement can be run again after a crash half-way.
--   drops.closed_early  an operator closed it early: nobody is promoted from its waiting list
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'drops' AND column_name = 'closed_early');
SET @sql = IF(@todo, 'ALTER TABLE drops ADD COLUMN closed_early BOOLEAN NOT NULL DEFAULT FALSE, ALGORITHM = INSTANT', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

--   operator   the name that the request gave (X-Operator), else NULL
--   token      fingerprint of the token: the first 8 hex digits of its SHA-256
--   from_addr  the other end of the connection: a proxy's address, if there is one in front
CREATE TABLE IF NOT EXISTS ops_actions (
    id        BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    at        DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    operator  VARCHAR(100) NULL,
    token     CHAR(8)      CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    from_addr VARCHAR(45)  CHARACTER SET ascii COLLATE ascii_bin NULL,
    action    VARCHAR(32)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    coupon_id BIGINT       NULL,
    drop_id   BIGINT       NULL,
    detail    JSON         NOT NULL,
    KEY ops_actions_by_time (at),
    KEY ops_actions_of_coupon (coupon_id, at)
) DEFAULT CHARACTER SET utf8mb4;

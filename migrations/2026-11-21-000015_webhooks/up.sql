-- Webhooks (docs/decisions/0017-webhooks.md): events to post, one row per event and target, and the
-- last event data about each drop. Not in mail_outbox, because the sender of an older release would
-- take these rows for mails.
--   event_id  the header webhook-id: the same for all targets and all attempts
--   target    host and fingerprint of the address, which may contain a secret
--   body      the signed bytes
CREATE TABLE IF NOT EXISTS webhook_outbox (
    id              BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    created_at      DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    event_id        VARCHAR(64)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    kind            VARCHAR(24)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    target          VARCHAR(300) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    body            MEDIUMTEXT   NOT NULL,
    attempts        INT UNSIGNED NOT NULL DEFAULT 0,
    next_attempt_at DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    leased_until    DATETIME(3)  NULL,
    sent_at         DATETIME(3)  NULL,
    given_up_at     DATETIME(3)  NULL,
    last_error      TEXT         NULL,
    UNIQUE KEY webhook_outbox_once (event_id, target),
    KEY webhook_outbox_due (sent_at, given_up_at, next_attempt_at)
) DEFAULT CHARACTER SET utf8mb4;

-- No foreign key, and no column of drops: each insert into issued_coupons locks that row of drops.
--   run_id             the run that saw it: numbers of an older run are ignored
--   sold_out_quantity  the quantity that was reported as sold out, or 0
CREATE TABLE IF NOT EXISTS webhook_drops (
    drop_id           BIGINT       NOT NULL PRIMARY KEY,
    run_id            CHAR(36)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    issued            BIGINT       NOT NULL DEFAULT 0,
    highest_slot      BIGINT       NOT NULL DEFAULT 0,
    sold_out_quantity INT UNSIGNED NOT NULL DEFAULT 0,
    updated_at        DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    KEY webhook_drops_by_time (updated_at)
) DEFAULT CHARACTER SET utf8mb4;

-- One row per pass. `owner` (host and process) and `heartbeat_at` distinguish a run that died from
-- one that is under way.
CREATE TABLE IF NOT EXISTS reconcile_runs (
    id                     CHAR(36)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    triggered_by           VARCHAR(16)  NOT NULL,
    dry_run                BOOLEAN      NOT NULL,
    deep                   BOOLEAN      NOT NULL,
    confirmed              BOOLEAN      NOT NULL DEFAULT FALSE,
    status                 VARCHAR(16)  NOT NULL,
    owner                  VARCHAR(200) NOT NULL,
    started_at             DATETIME(3)  NOT NULL,
    heartbeat_at           DATETIME(3)  NOT NULL,
    finished_at            DATETIME(3)  NULL,
    drops_examined         INT UNSIGNED NOT NULL DEFAULT 0,
    users_examined         BIGINT       NOT NULL DEFAULT 0,
    rows_examined          BIGINT       NOT NULL DEFAULT 0,
    failed_claims_examined BIGINT       NOT NULL DEFAULT 0,
    attempted              INT UNSIGNED NOT NULL DEFAULT 0,
    applied                INT UNSIGNED NOT NULL DEFAULT 0,
    skipped                INT UNSIGNED NOT NULL DEFAULT 0,
    failed                 INT UNSIGNED NOT NULL DEFAULT 0,
    error                  TEXT         NULL,
    drops                  JSON         NULL,
    KEY reconcile_runs_by_time (started_at),
    KEY reconcile_runs_by_status (status, started_at)
) DEFAULT CHARACTER SET utf8mb4;

CREATE TABLE IF NOT EXISTS reconcile_findings (
    id         BIGINT      NOT NULL AUTO_INCREMENT PRIMARY KEY,
    run_id     CHAR(36)    CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    coupon_id  BIGINT      NULL,
    drop_id    BIGINT      NULL,
    kind       VARCHAR(24) NOT NULL,
    slot       BIGINT      NULL,
    user_id    VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL,
    action     VARCHAR(32) NOT NULL,
    result     VARCHAR(16) NOT NULL,
    detail     TEXT        NULL,
    needs_person BOOLEAN   NOT NULL DEFAULT FALSE,
    created_at DATETIME(3) NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    KEY reconcile_findings_run (run_id, id),
    KEY reconcile_findings_person (coupon_id, user_id),
    CONSTRAINT reconcile_findings_run FOREIGN KEY (run_id) REFERENCES reconcile_runs (id) ON DELETE CASCADE
) DEFAULT CHARACTER SET utf8mb4;

-- Promises that could not be kept, by user. `mended_at` is set when the user got a row after all.
CREATE TABLE IF NOT EXISTS broken_promises (
    drop_id    BIGINT       NOT NULL,
    user_id    VARCHAR(64)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    coupon_id  BIGINT       NOT NULL,
    slot       BIGINT       NULL,
    reason     VARCHAR(255) NOT NULL,
    run_id     CHAR(36)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    created_at DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    mended_at  DATETIME(3)  NULL,
    PRIMARY KEY (drop_id, user_id),
    KEY broken_promises_person (coupon_id, user_id)
) DEFAULT CHARACTER SET utf8mb4;

-- Alerts mailed to the people on duty, one row per drift (fingerprint), across restarts.
CREATE TABLE IF NOT EXISTS alerts (
    id              BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    fingerprint     CHAR(64)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    kind            VARCHAR(24)  NOT NULL,
    coupon_id       BIGINT       NULL,
    drop_id         BIGINT       NULL,
    status          VARCHAR(16)  NOT NULL,
    summary         TEXT         NOT NULL,
    content_hash    CHAR(64)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    first_seen_at   DATETIME(3)  NOT NULL,
    last_seen_at    DATETIME(3)  NOT NULL,
    last_mailed_at  DATETIME(3)  NULL,
    mails           INT UNSIGNED NOT NULL DEFAULT 0,
    thread_id       VARCHAR(200) NULL,
    resolved_at     DATETIME(3)  NULL,
    acknowledged_at DATETIME(3)  NULL,
    acknowledged_by VARCHAR(100) NULL,
    UNIQUE KEY alerts_fingerprint (fingerprint),
    KEY alerts_status (status, last_seen_at)
) DEFAULT CHARACTER SET utf8mb4;

-- Mails to send, one row per recipient, so that one refused address never repeats another's mail.
CREATE TABLE IF NOT EXISTS mail_outbox (
    id              BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    created_at      DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    kind            VARCHAR(24)  NOT NULL,
    run_id          CHAR(36)     CHARACTER SET ascii COLLATE ascii_bin NULL,
    recipient       VARCHAR(320) NOT NULL,
    subject         VARCHAR(500) NOT NULL,
    message_id      VARCHAR(200) NOT NULL,
    thread_refs     TEXT         NULL,
    body_text       MEDIUMTEXT   NOT NULL,
    body_html       MEDIUMTEXT   NOT NULL,
    attempts        INT UNSIGNED NOT NULL DEFAULT 0,
    next_attempt_at DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    leased_until    DATETIME(3)  NULL,
    sent_at         DATETIME(3)  NULL,
    given_up_at     DATETIME(3)  NULL,
    last_error      TEXT         NULL,
    KEY mail_outbox_due (sent_at, given_up_at, next_attempt_at)
) DEFAULT CHARACTER SET utf8mb4;

-- Small facts that must survive a restart: the last success, the last run of each schedule,
-- confirmations.
CREATE TABLE IF NOT EXISTS reconciler_state (
    name       VARCHAR(64)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    value      VARCHAR(500) NOT NULL,
    updated_at DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3))
) DEFAULT CHARACTER SET utf8mb4;

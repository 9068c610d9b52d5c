-- What reconcilers record about their work: the only tables that `attach` needs. They refer to no
-- claims, and also run on MySQL 8.0 and MariaDB. Times are UTC. There is no transactional DDL: every
-- statement can be run again after a crash half-way.

-- One row per process of `serve`, `consume` or the reconciler's daemon that runs, or ran within a
-- day: its settings. The reconciler waits for the longest deadline, and refuses to work if another
-- process has another topic, group or key prefix.
--   state        what it knows of the stores and the gates, as JSON: a part that is missing is not known
--   has_readers  whether anybody gets what it mails
CREATE TABLE IF NOT EXISTS processes (
    id                   CHAR(32)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    role                 VARCHAR(16)  NOT NULL,
    owner                VARCHAR(200) NOT NULL,
    redis_prefix         VARCHAR(64)  NULL,
    topic                VARCHAR(249) NOT NULL,
    consumer_group       VARCHAR(249) NOT NULL,
    publish_deadline_ms  BIGINT       NOT NULL,
    fallback_deadline_ms BIGINT       NOT NULL,
    state                TEXT         NULL,
    has_readers          BOOLEAN      NOT NULL DEFAULT FALSE,
    seen_at              DATETIME(3)  NOT NULL,
    KEY processes_by_time (seen_at)
) DEFAULT CHARACTER SET utf8mb4;

-- Passes.
--   owner     host and process
--   asked_by  the operator who asked for it, by the name in the request
--   content   a hash of the result of a pass over everything
--   same_as   the earlier run with the same result, which has the findings and `drops`. A run that names one is deleted after a day
CREATE TABLE IF NOT EXISTS reconcile_runs (
    id                     CHAR(36)        CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    triggered_by           VARCHAR(16)     NOT NULL,
    asked_by               VARCHAR(100)    NULL,
    dry_run                BOOLEAN         NOT NULL,
    deep                   BOOLEAN         NOT NULL,
    confirmed              BOOLEAN         NOT NULL DEFAULT FALSE,
    status                 VARCHAR(16)     NOT NULL,
    owner                  VARCHAR(200)    NOT NULL,
    started_at             DATETIME(3)     NOT NULL,
    finished_at            DATETIME(3)     NULL,
    drops_examined         INT UNSIGNED    NOT NULL DEFAULT 0,
    users_examined         BIGINT          NOT NULL DEFAULT 0,
    rows_examined          BIGINT          NOT NULL DEFAULT 0,
    failed_claims_examined BIGINT          NOT NULL DEFAULT 0,
    applied                INT UNSIGNED    NOT NULL DEFAULT 0,
    skipped                INT UNSIGNED    NOT NULL DEFAULT 0,
    failed                 INT UNSIGNED    NOT NULL DEFAULT 0,
    error                  TEXT            NULL,
    drops                  JSON            NULL,
    content                BIGINT          NULL,
    same_as                CHAR(36)        CHARACTER SET ascii COLLATE ascii_bin NULL,
    KEY reconcile_runs_by_time (started_at),
    KEY reconcile_runs_by_status (status, started_at),
    KEY reconcile_runs_same_as (same_as, started_at)
) DEFAULT CHARACTER SET utf8mb4;

-- At most 200 findings of a drop are stored for each kind, action and result; one more row has the
-- number of the rest. A run with the same result as an earlier one (`same_as`) has no rows. There is
-- no foreign key, because deleting a run must not delete thousands of findings in one statement.
--   dead_letter                 the failed claim that it concerns
--   reconcile_findings_applied  the number of a drop's repairs since its last mail
CREATE TABLE IF NOT EXISTS reconcile_findings (
    id           BIGINT          NOT NULL AUTO_INCREMENT PRIMARY KEY,
    run_id       CHAR(36)        CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    coupon_id    BIGINT          NULL,
    drop_id      BIGINT          NULL,
    kind         VARCHAR(24)     NOT NULL,
    slot         BIGINT          NULL,
    user_id      VARCHAR(128)    CHARACTER SET ascii COLLATE ascii_bin NULL,
    action       VARCHAR(32)     NOT NULL,
    result       VARCHAR(16)     NOT NULL,
    detail       TEXT            NOT NULL DEFAULT (''),
    dead_letter  BIGINT          NULL,
    cause        VARCHAR(255)    NOT NULL DEFAULT '',
    needs_person BOOLEAN         NOT NULL DEFAULT FALSE,
    created_at   DATETIME(3)     NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    KEY reconcile_findings_run (run_id, id),
    KEY reconcile_findings_person (coupon_id, user_id),
    KEY reconcile_findings_old (created_at),
    KEY reconcile_findings_applied (drop_id, result, created_at)
) DEFAULT CHARACTER SET utf8mb4;

-- Small facts that must survive a restart: the last success, the last run of each schedule.
CREATE TABLE IF NOT EXISTS reconciler_state (
    name       VARCHAR(64)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    value      VARCHAR(500) NOT NULL,
    updated_at DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3))
) DEFAULT CHARACTER SET utf8mb4;

-- What is wrong as looks see it: one row per kind, coupon, drop and part. A look replaces, per drop and kind, what it judged.
--   subject   drop or campaign
--   number    the number of cases
--   cases     8 bytes for each case, a hash; NULL if they are only counted
--   facts     what deciding needs, as JSON: no text for people but quoted errors
--   run_id    the run that stores its findings
--   given_up  it is not repaired, and no look can judge it any more
CREATE TABLE IF NOT EXISTS levels (
    name      VARCHAR(100)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    subject   VARCHAR(8)       CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    kind      VARCHAR(24)      NOT NULL,
    coupon_id BIGINT           NULL,
    drop_id   BIGINT           NULL,
    number    BIGINT UNSIGNED  NOT NULL,
    cases     VARBINARY(16000) NULL,
    facts     TEXT             NOT NULL,
    run_id    CHAR(36)         CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    first_at  DATETIME(3)      NOT NULL,
    last_at   DATETIME(3)      NOT NULL,
    given_up  BOOLEAN          NOT NULL DEFAULT FALSE,
    KEY levels_subject (subject),
    KEY levels_drop (drop_id)
) DEFAULT CHARACTER SET utf8mb4;

-- Alerts: what was told about each problem, one row for each time that it was there, from its begin to its end.
--   open_name     subject and name while it is open: only one can be
--   waits_from    since when it is unexplained
--   explained_by  the kind of the alert that is mailed instead
--   gone_at       since when it is gone; it is over once it has stayed away
--   returns       how often it came back
--   told_cases    the cases that were told and are still there: an acknowledgement covers only these
CREATE TABLE IF NOT EXISTS told (
    id              BIGINT           NOT NULL AUTO_INCREMENT PRIMARY KEY,
    subject         VARCHAR(8)       CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    name            VARCHAR(100)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    open_name       VARCHAR(110)     CHARACTER SET ascii COLLATE ascii_bin NULL,
    kind            VARCHAR(24)      NOT NULL,
    coupon_id       BIGINT           NULL,
    drop_id         BIGINT           NULL,
    summary         TEXT             NOT NULL,
    began_at        DATETIME(3)      NOT NULL,
    waits_from      DATETIME(3)      NULL,
    explained_by    VARCHAR(24)      NULL,
    gone_at         DATETIME(3)      NULL,
    returns         INT UNSIGNED     NOT NULL DEFAULT 0,
    told_at         DATETIME(3)      NULL,
    tells           INT UNSIGNED     NOT NULL DEFAULT 0,
    told_number     BIGINT UNSIGNED  NOT NULL DEFAULT 0,
    told_cases      VARBINARY(16000) NULL,
    ended_at        DATETIME(3)      NULL,
    given_up        BOOLEAN          NOT NULL DEFAULT FALSE,
    acknowledged_at DATETIME(3)      NULL,
    acknowledged_by VARCHAR(100)     NULL,
    UNIQUE KEY told_open (open_name),
    KEY told_ended (ended_at)
) DEFAULT CHARACTER SET utf8mb4;

-- The number of repairs of each pass by drop (0: outside any drop) and kind, for one mail about
-- repairs and for the daily digest.
--   told  an evaluation has decided that a mail names them
CREATE TABLE IF NOT EXISTS repairs (
    run_id      CHAR(36)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    drop_id     BIGINT       NOT NULL,
    kind        VARCHAR(24)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    number      INT UNSIGNED NOT NULL,
    repaired_at DATETIME(3)  NOT NULL,
    told        BOOLEAN      NOT NULL DEFAULT FALSE,
    PRIMARY KEY (run_id, drop_id, kind),
    KEY repairs_by_time (repaired_at),
    KEY repairs_untold (told, repaired_at)
) DEFAULT CHARACTER SET utf8mb4;

-- Mails and webhook events to send (docs/decisions/0017-webhooks.md): one row per mail and
-- recipient, or event and address, so that a refused one never causes the others to be sent again.
--   channel  mail or webhook
--   batch    the rows of one mail or event; an event's header webhook-id
--   target   the recipient, or host and fingerprint of an address, which may contain a secret
--   thread   Message-IDs that a mail refers to
--   body     plain text, or the signed bytes of an event
CREATE TABLE IF NOT EXISTS outbox (
    id              BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    created_at      DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    channel         VARCHAR(8)   CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    kind            VARCHAR(24)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    batch           VARCHAR(64)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    target          VARCHAR(320) NOT NULL,
    subject         VARCHAR(500) NOT NULL,
    thread          TEXT         NULL,
    body            MEDIUMTEXT   NOT NULL,
    html            MEDIUMTEXT   NULL,
    attempts        INT UNSIGNED NOT NULL DEFAULT 0,
    next_attempt_at DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    leased_until    DATETIME(3)  NULL,
    sent_at         DATETIME(3)  NULL,
    given_up_at     DATETIME(3)  NULL,
    last_error      TEXT         NULL,
    UNIQUE KEY outbox_once (batch, target),
    KEY outbox_due (sent_at, given_up_at, next_attempt_at)
) DEFAULT CHARACTER SET utf8mb4;

-- The log of operators' actions, each row written in the transaction of its action.
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

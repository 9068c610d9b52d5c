-- Coupons, claims and their rows: MySQL 8.4 or newer. Keys, foreign keys and CHECKs guard what must
-- never be wrong, also against SQL that is typed by hand: there are no triggers, so `migrate` needs
-- no rights but those on its own database. Ids of users compare byte by byte (ascii_bin). Times are
-- UTC. MySQL has no transactional DDL: every statement can be run again after a crash half-way.

-- Coupons. Ids of coupons, drops and revocations are not assigned by MySQL, which could assign one
-- twice after a restore (shared/src/mysql/ids.rs).
--   once_per               the scope in which one user may hold one: the whole coupon, or each drop. The foreign keys to it refuse a
--                          change once the coupon has drops or revocations
--   revision               the fencing token of its settings: every writer to Redis first takes the next one here, and Redis refuses
--                          a revision that is older than the newest it has seen
--   era                    the era of its data in Redis: increased each time the coupon is closed so that its data can be verified or
--                          rebuilt. Admission compares it with the coupon's `gate` in Redis
--   allow_rule             NULL: everybody; `list`: users on the coupon's allow list; `group:NAME`: users whose token names the group
--                          (docs/decisions/0012-revisions.md)
--   allow_list_revision    the coupon's revision at the last change of its list, 0 before the first change: Redis must have the list
--                          of this revision
--   allow_list_people      number of users on the list
--   allow_list_changed_at  when the list last changed
--   idempotency_key        the key of the request that created the coupon; body_hash is the hash of its body. A request that repeats
--                          both returns this coupon; one with the same key and another body is refused
--   valid_until            codes can be used before this time
--   valid_days             codes can be used within this many times 24 hours from `claimed_at`. At most one of the two is set; Redis
--                          has neither
--   daily_until            the last local date of a daily schedule, '9999-12-31' without one, NULL for any other: such a coupon may
--                          need drops although none is unsealed
CREATE TABLE IF NOT EXISTS coupons (
    id                    BIGINT          NOT NULL PRIMARY KEY,
    name                  VARCHAR(200)    NOT NULL,
    quantity              INT UNSIGNED    NOT NULL,
    once_per              VARCHAR(6)      CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    waiting_list          INT UNSIGNED    NOT NULL DEFAULT 0,
    paused                BOOLEAN         NOT NULL DEFAULT FALSE,
    schedule              JSON            NULL,
    valid_until           DATETIME(3)     NULL,
    valid_days            INT UNSIGNED    NULL,
    revision              BIGINT UNSIGNED NOT NULL DEFAULT 1,
    era                   BIGINT UNSIGNED NOT NULL DEFAULT 0,
    allow_rule            VARCHAR(70)     CHARACTER SET ascii COLLATE ascii_bin NULL,
    allow_list_revision   BIGINT UNSIGNED NOT NULL DEFAULT 0,
    allow_list_people     INT UNSIGNED    NOT NULL DEFAULT 0,
    allow_list_changed_at DATETIME(3)     NULL,
    idempotency_key       VARCHAR(255)    CHARACTER SET ascii COLLATE ascii_bin NULL UNIQUE,
    body_hash             BINARY(32)      NULL,
    created_at            DATETIME(3)     NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    daily_until           VARCHAR(10)     AS (IF(schedule->>'$.type' = 'daily',
        IF(JSON_TYPE(schedule->'$.last_day') = 'STRING', LEFT(schedule->>'$.last_day', 10), '9999-12-31'), NULL)) VIRTUAL,
    UNIQUE KEY coupons_scope (id, once_per),
    KEY coupons_daily_until (daily_until),
    CONSTRAINT coupons_quantity CHECK (quantity >= 1),
    CONSTRAINT coupons_once_per CHECK (once_per IN ('coupon', 'drop')),
    CONSTRAINT coupons_valid CHECK (valid_until IS NULL OR valid_days IS NULL)
) DEFAULT CHARACTER SET utf8mb4;

-- The users on a coupon's allow list.
CREATE TABLE IF NOT EXISTS coupon_allow_list (
    coupon_id BIGINT       NOT NULL,
    user_id   VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    PRIMARY KEY (coupon_id, user_id),
    CONSTRAINT coupon_allow_list_of_coupon FOREIGN KEY (coupon_id) REFERENCES coupons (id)
) DEFAULT CHARACTER SET utf8mb4;

-- One opening of a coupon. A coupon has at most one drop per local_date, however many processes
-- create drops concurrently.
--   id               40 bits, because it is a part of each code
--   local_date       the day in the coupon's time zone, NULL only for drops that were inserted manually
--   quantity         the limits below refer to it, so a statement that changes it alone is refused
--   closed_early     an operator closed it early: only users who are owed a slot still get one
--   sealed_at        set by the reconciler once a closed drop was verified exact
--   codes_erased_at  when the user ids and codes of a sealed drop were erased (RETENTION_DAYS)
--   drops_opened     index that finds the coupon's sealed drop with the latest opening
--   drops_sealed     index that finds the coupon's unsealed drops, and the drop that was sealed last: a Redis that has noted this
--                    sealing is not older than any earlier one
CREATE TABLE IF NOT EXISTS drops (
    id              BIGINT       NOT NULL PRIMARY KEY,
    coupon_id       BIGINT       NOT NULL,
    local_date      DATE         NULL,
    opens_at        DATETIME(3)  NOT NULL,
    closes_at       DATETIME(3)  NULL,
    closed_early    BOOLEAN      NOT NULL DEFAULT FALSE,
    quantity        INT UNSIGNED NOT NULL,
    created_at      DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    sealed_at       DATETIME(3)  NULL,
    sealed_rows     INT UNSIGNED NULL,
    codes_erased_at DATETIME(3)  NULL,
    UNIQUE KEY drops_one_a_day (coupon_id, local_date),
    UNIQUE KEY drops_with_coupon (id, coupon_id),
    UNIQUE KEY drops_with_quantity (id, coupon_id, quantity),
    KEY drops_unsealed (sealed_at, opens_at),
    KEY drops_opened (coupon_id, opens_at),
    KEY drops_sealed (coupon_id, sealed_at),
    CONSTRAINT drops_id CHECK (id BETWEEN 1 AND 1099511627775),
    CONSTRAINT drops_quantity CHECK (quantity >= 1),
    CONSTRAINT drops_window CHECK (MONTH(opens_at) * DAY(opens_at) > 0
        AND (closes_at IS NULL OR closes_at > opens_at AND MONTH(closes_at) * DAY(closes_at) > 0)),
    CONSTRAINT drops_coupon FOREIGN KEY (coupon_id) REFERENCES coupons (id)
) DEFAULT CHARACTER SET utf8mb4;

-- Refuses a slot above the quantity by foreign keys and CHECKs, not by a query for each row
-- (docs/decisions/0011-slot-limits.md): a row of issued_coupons names its limit, the limit must
-- exist for its drop (foreign key), and the slot must not be above it (CHECK). A drop's limits are
-- its quantity, every lower quantity it had, and in between every 10,000th slot (above five million
-- slots, every multiple of a five-hundredth of the quantity). A row names the lowest limit that is
-- not below its slot, so a lower quantity changes only the rows of one such part. Whoever inserts a
-- drop or changes its quantity writes the limits in the same transaction (mysql/slot_limits.rs).
--   quantity      the drop's, by a foreign key: no limit may be above it
--   person_scope  0 if a user may hold one of the coupon, or the drop's id if one of each drop, by once_per and a foreign key
CREATE TABLE IF NOT EXISTS slot_limits (
    drop_id      BIGINT       NOT NULL,
    slot_limit   INT UNSIGNED NOT NULL,
    coupon_id    BIGINT       NOT NULL,
    person_scope BIGINT       NOT NULL,
    quantity     INT UNSIGNED NOT NULL,
    once_per     VARCHAR(6)   CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    PRIMARY KEY (drop_id, slot_limit, coupon_id, person_scope),
    KEY slot_limits_drop (drop_id, coupon_id, quantity),
    KEY slot_limits_scope (coupon_id, once_per),
    CONSTRAINT slot_limits_quantity CHECK (slot_limit <= quantity),
    CONSTRAINT slot_limits_person_scope CHECK (person_scope = IF(once_per = 'coupon', 0, drop_id)),
    CONSTRAINT slot_limits_drop FOREIGN KEY (drop_id, coupon_id, quantity) REFERENCES drops (id, coupon_id, quantity) ON DELETE CASCADE,
    CONSTRAINT slot_limits_scope FOREIGN KEY (coupon_id, once_per) REFERENCES coupons (id, once_per)
) DEFAULT CHARACTER SET utf8mb4;

-- Issued coupons. The schema itself refuses surplus rows, whoever writes them:
--   slot outside 1..quantity            CHECK, and the foreign key to slot_limits
--   an invalid user id                  CHECK: no other store could have it
--   a second row for a slot             primary key
--   a second row for a user             issued_coupons_one_each; person_scope is 0 (once a coupon) or the drop's id, by the foreign key
--   a drop of another coupon            foreign key
--   a zero date                         CHECK: a session that is not strict could write one, and no pass could read it
-- slot_limit is any limit of the drop that is not below the slot. Every writer must name it and
-- person_scope, including an operator with a MySQL client: a trigger would cost more than the row. A
-- code is found by its drop and slot, without an index (docs/decisions/0011-slot-limits.md); the code
-- of a manual row needs the form of the default: drop, slot and 40 random bits in base 32 without I,
-- L, O and U, in groups of four. The last two columns are INVISIBLE, so that `SELECT *` returns the
-- columns of the contract.
CREATE TABLE IF NOT EXISTS issued_coupons (
    drop_id      BIGINT       NOT NULL,
    slot         INT UNSIGNED NOT NULL,
    coupon_id    BIGINT       NOT NULL,
    user_id      VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    code         VARCHAR(29)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL
        DEFAULT (REGEXP_REPLACE(REPLACE(REPLACE(REPLACE(REPLACE(REPLACE(REPLACE(REPLACE(REPLACE(REPLACE(REPLACE(REPLACE(REPLACE(REPLACE(REPLACE(
            CONCAT(LPAD(CONV(drop_id, 10, 32), 8, '0'), LPAD(CONV(slot, 10, 32), IF(slot < 1048576, 4, 8), '0'),
            LPAD(CONV(HEX(RANDOM_BYTES(5)), 16, 32), 8, '0')),
            'V', 'Z'), 'U', 'Y'), 'T', 'X'), 'S', 'W'), 'R', 'V'), 'Q', 'T'), 'P', 'S'), 'O', 'R'), 'N', 'Q'), 'M', 'P'), 'L', 'N'), 'K', 'M'), 'J', 'K'), 'I', 'J'),
            '(....)(?=.)', '$1-')),
    claimed_at   DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    issued_at    DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    issued_by    VARCHAR(10)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    slot_limit   INT UNSIGNED NOT NULL INVISIBLE,
    person_scope BIGINT       NOT NULL INVISIBLE,
    PRIMARY KEY (drop_id, slot),
    UNIQUE KEY issued_coupons_one_each (coupon_id, user_id, person_scope),
    KEY issued_coupons_limit (drop_id, slot_limit, coupon_id, person_scope),
    CONSTRAINT issued_coupons_slot CHECK (slot BETWEEN 1 AND slot_limit),
    CONSTRAINT issued_coupons_user CHECK (REGEXP_LIKE(user_id, '^[A-Za-z0-9._@+|:=/-]+\\z') AND user_id NOT IN ('.', '..')),
    CONSTRAINT issued_coupons_times CHECK (MONTH(claimed_at) * DAY(claimed_at) > 0 AND MONTH(issued_at) * DAY(issued_at) > 0),
    CONSTRAINT issued_coupons_issued_by CHECK (issued_by IN ('consumer', 'api', 'reconciler')),
    CONSTRAINT issued_coupons_limit FOREIGN KEY (drop_id, slot_limit, coupon_id, person_scope)
        REFERENCES slot_limits (drop_id, slot_limit, coupon_id, person_scope)
) DEFAULT CHARACTER SET utf8mb4;

-- Claims that were given back or revoked (docs/decisions/0013-revoking.md). A revocation voids
-- claims of its user in its scope, whatever their slot:
--   again_from NULL    every claim; revoked_coupons_one allows one such revocation at a time
--   again_from         those admitted up to this time by Redis's clock
-- person_scope is as in issued_coupons, by once_per, which is the coupon's. Redis needs the
-- revocations of unsealed drops, and those of a whole coupon that have not ended
-- (revoked_coupons_in_force); passes read no others. slot is NULL if the user had none (on the
-- waiting list, or owed one); code, claimed_at, issued_at and issued_by are NULL if there was no row
-- yet.
CREATE TABLE IF NOT EXISTS revoked_coupons (
    id              BIGINT       NOT NULL PRIMARY KEY,
    coupon_id       BIGINT       NOT NULL,
    drop_id         BIGINT       NOT NULL,
    slot            INT UNSIGNED NULL,
    user_id         VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    code            VARCHAR(29)  CHARACTER SET ascii COLLATE ascii_bin NULL,
    claimed_at      DATETIME(3)  NULL,
    issued_at       DATETIME(3)  NULL,
    issued_by       VARCHAR(10)  CHARACTER SET ascii COLLATE ascii_bin NULL,
    reason          VARCHAR(200) NOT NULL,
    revoked_by      VARCHAR(100) NOT NULL,
    may_claim_again BOOLEAN      NOT NULL DEFAULT FALSE,
    revoked_at      DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    again_from      DATETIME(3)  NULL,
    once_per        VARCHAR(6)   CHARACTER SET ascii COLLATE ascii_bin NOT NULL INVISIBLE,
    person_scope    BIGINT       GENERATED ALWAYS AS (IF(once_per = 'coupon', 0, drop_id)) VIRTUAL NOT NULL INVISIBLE,
    open_scope      BIGINT       GENERATED ALWAYS AS (IF(again_from IS NULL, person_scope, NULL)) VIRTUAL INVISIBLE,
    UNIQUE KEY revoked_coupons_one (coupon_id, user_id, open_scope),
    KEY revoked_coupons_drop (drop_id, coupon_id, slot),
    KEY revoked_coupons_in_force (coupon_id, person_scope, again_from),
    KEY revoked_coupons_scope (coupon_id, once_per),
    CONSTRAINT revoked_coupons_of_drop FOREIGN KEY (drop_id, coupon_id) REFERENCES drops (id, coupon_id),
    CONSTRAINT revoked_coupons_scope FOREIGN KEY (coupon_id, once_per) REFERENCES coupons (id, once_per)
) DEFAULT CHARACTER SET utf8mb4;

-- Uses of codes by shops (docs/decisions/0043-using.md). A use belongs to a claim, not to its row,
-- which passes may move, delete and write again: therefore no foreign key.
--   reference  the order: at most 100 for each claim have used its code, and at most 1,000 are kept
--   used_by    the name in the request, else the fingerprint of its token
--   used_at    NULL: the reference was undone before it used the code
--   undone_at  the reference can never use the code again
--   in_use     1 if used and not undone: one at a time, by coupon_uses_one
CREATE TABLE IF NOT EXISTS coupon_uses (
    drop_id    BIGINT       NOT NULL,
    slot       INT UNSIGNED NOT NULL,
    claimed_at DATETIME(3)  NOT NULL,
    reference  VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    used_by    VARCHAR(100) NOT NULL,
    used_at    DATETIME(3)  NULL,
    undone_at  DATETIME(3)  NULL,
    in_use     TINYINT      GENERATED ALWAYS AS (IF(used_at IS NOT NULL AND undone_at IS NULL, 1, NULL)) VIRTUAL INVISIBLE,
    PRIMARY KEY (drop_id, slot, claimed_at, reference),
    UNIQUE KEY coupon_uses_one (drop_id, slot, claimed_at, in_use)
) DEFAULT CHARACTER SET utf8mb4;

-- The key from which codes are derived (docs/decisions/0011-slot-limits.md): a claim whose row is
-- written again gets the same code. Generated by `firstcome-api migrate`, or, if the table was
-- copied empty, by the writer of the first row.
CREATE TABLE IF NOT EXISTS code_key (
    id     TINYINT       NOT NULL PRIMARY KEY,
    secret VARBINARY(32) NOT NULL,
    CONSTRAINT code_key_is_one CHECK (id = 1 AND LENGTH(secret) = 32)
) DEFAULT CHARACTER SET utf8mb4;

-- The dead-letter table: claims that the consumer could not turn into rows, messages that it could
-- not read, and claims inserted by hand. The reconciler resolves those that it can: usually it
-- issues the row.
--   source_hash         SHA-256 of topic, partition, offset, timestamp, payload and the claim's index in the message: a claim that
--                       is read twice has only one row here. For messages without a valid signature, SHA-256 of topic, partition and
--                       day, because any client that can write to the topic could otherwise fill the table; `attempts` counts
--                       these messages
--   failed_claims_open  unresolved ones are counted, and read by a page of slots, from this index alone; resolved ones are deleted
--                       through it
CREATE TABLE IF NOT EXISTS failed_claims (
    id                BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    coupon_id         BIGINT       NULL,
    drop_id           BIGINT       NULL,
    slot              BIGINT       NULL,
    user_id           VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NULL,
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
    KEY failed_claims_open (resolved_at, drop_id, slot, coupon_id, user_id),
    KEY failed_claims_person (coupon_id, user_id),
    CONSTRAINT failed_claims_times CHECK
        ((claimed_at IS NULL OR MONTH(claimed_at) * DAY(claimed_at) > 0) AND MONTH(failed_at) * DAY(failed_at) > 0)
) DEFAULT CHARACTER SET utf8mb4;

-- Promises whose slot belongs to another user or is above the quantity. `mended_at` is set when the
-- user gets a row after all, when a revocation voids the promise, or when an operator confirms that
-- the user was informed.
CREATE TABLE IF NOT EXISTS broken_promises (
    drop_id    BIGINT       NOT NULL,
    user_id    VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    coupon_id  BIGINT       NOT NULL,
    slot       BIGINT       NULL,
    reason     VARCHAR(255) NOT NULL,
    run_id     CHAR(36)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    created_at DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    mended_at  DATETIME(3)  NULL,
    PRIMARY KEY (drop_id, user_id),
    KEY broken_promises_person (coupon_id, user_id),
    KEY broken_promises_open (mended_at, drop_id, created_at)
) DEFAULT CHARACTER SET utf8mb4;

-- Where reading of each partition begins: the offset after the last message whose row or dead
-- letter is in this database. A consumer moves it in the transaction of the rows and starts here on
-- every assignment; passes compare it with the ends of the topic. It is part of every backup, so a
-- restored database reads again what it lost.
--   seen_at  when the partition's consumer last moved it, or recorded that it waits for the pace of rows (ROWS_PER_SECOND)
CREATE TABLE IF NOT EXISTS topic_positions (
    topic        VARCHAR(249) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    partition_id INT          NOT NULL,
    next_offset  BIGINT       NOT NULL,
    seen_at      DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    PRIMARY KEY (topic, partition_id)
) DEFAULT CHARACTER SET utf8mb4;

-- Claims that were given back or revoked (docs/decisions/0013-revoking.md). A revocation voids
-- claims of its user in its scope, whatever their slot:
--   again_from NULL    every claim; revoked_coupons_one allows one such revocation at a time
--   again_from         those admitted up to this time by Redis's clock
-- person_scope is as in issued_coupons: 0 once a coupon, else the drop's id. slot is NULL for a
-- user who had none (on the waiting list), code and the times if there was no row yet. This can be
-- run again after a crash half-way.
CREATE TABLE IF NOT EXISTS revoked_coupons (
    id              BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    coupon_id       BIGINT       NOT NULL,
    drop_id         BIGINT       NOT NULL,
    slot            INT UNSIGNED NULL,
    user_id         VARCHAR(64)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    code            VARCHAR(32)  CHARACTER SET ascii COLLATE ascii_bin NULL,
    claimed_at      DATETIME(3)  NULL,
    issued_at       DATETIME(3)  NULL,
    issued_by       VARCHAR(10)  CHARACTER SET ascii COLLATE ascii_bin NULL,
    reason          VARCHAR(200) NOT NULL,
    revoked_by      VARCHAR(100) NOT NULL,
    may_claim_again BOOLEAN      NOT NULL DEFAULT FALSE,
    revoked_at      DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    again_from      DATETIME(3)  NULL,
    person_scope    BIGINT       NOT NULL DEFAULT 0 INVISIBLE,
    open_scope      BIGINT       GENERATED ALWAYS AS (IF(again_from IS NULL, person_scope, NULL)) VIRTUAL INVISIBLE,
    UNIQUE KEY revoked_coupons_one (coupon_id, user_id, open_scope),
    KEY revoked_coupons_drop (drop_id, coupon_id),
    CONSTRAINT revoked_coupons_of_drop FOREIGN KEY (drop_id, coupon_id) REFERENCES drops (id, coupon_id)
) DEFAULT CHARACTER SET utf8mb4;

CREATE TRIGGER IF NOT EXISTS revoked_coupons_before_insert BEFORE INSERT ON revoked_coupons FOR EACH ROW
BEGIN
    SET NEW.person_scope = IF((SELECT c.once_per FROM coupons c WHERE c.id = NEW.coupon_id) = 'coupon', 0, NEW.drop_id);
END;

-- A row without a limit is inserted by hand, or alone: the schema checks whether its claim is
-- revoked. Writers of many rows check that themselves, after the insert (shared/src/mysql/void.rs).
CREATE TRIGGER IF NOT EXISTS issued_coupons_revoked_insert BEFORE INSERT ON issued_coupons FOR EACH ROW
    PRECEDES issued_coupons_limit_insert
BEGIN
    DECLARE found BIGINT DEFAULT NULL;
    IF NEW.slot_limit = 0 THEN
        SELECT r.id INTO found FROM revoked_coupons r
            WHERE r.coupon_id = NEW.coupon_id AND r.user_id = NEW.user_id
            AND (r.person_scope = 0 OR r.person_scope = NEW.drop_id)
            AND (r.again_from IS NULL OR NEW.claimed_at <= r.again_from) LIMIT 1 FOR SHARE;
        IF found IS NOT NULL THEN
            SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'firstcome: revoked: this claim was given back or revoked';
        END IF;
    END IF;
END;

-- Issued coupons. The schema itself refuses surplus rows, whoever writes them:
--   slot outside 1..quantity           CHECK and trigger (error 1644, "firstcome: slot …")
--   a second row for a slot            primary key
--   a second row for a person          issued_coupons_one_each; person_scope is 0 (once a coupon) or the drop's id
--   a drop of another coupon           composite foreign key
--   a duplicate code             issued_coupons_code
-- person_scope is set by the trigger and INVISIBLE, so that the table reads as its contract says.
CREATE TABLE IF NOT EXISTS issued_coupons (
    drop_id      BIGINT       NOT NULL,
    slot         INT UNSIGNED NOT NULL,
    coupon_id    BIGINT       NOT NULL,
    user_id      VARCHAR(64)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    code         VARCHAR(32)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT (HEX(RANDOM_BYTES(10))),
    claimed_at   DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    issued_at    DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    issued_by    VARCHAR(10)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    person_scope BIGINT       NOT NULL DEFAULT 0 INVISIBLE,
    PRIMARY KEY (drop_id, slot),
    UNIQUE KEY issued_coupons_one_each (coupon_id, user_id, person_scope),
    UNIQUE KEY issued_coupons_code (code),
    CONSTRAINT issued_coupons_slot CHECK (slot >= 1),
    CONSTRAINT issued_coupons_issued_by CHECK (issued_by IN ('consumer', 'reconciler')),
    CONSTRAINT issued_coupons_drop FOREIGN KEY (drop_id, coupon_id) REFERENCES drops (id, coupon_id)
) DEFAULT CHARACTER SET utf8mb4;

-- FOR SHARE, not a snapshot read: the quantity must be the one in force, not the one when this transaction began.
-- The foreign key takes the same lock anyway.
CREATE TRIGGER IF NOT EXISTS issued_coupons_before_insert BEFORE INSERT ON issued_coupons FOR EACH ROW
BEGIN
    DECLARE allowed INT UNSIGNED DEFAULT NULL;
    DECLARE scope VARCHAR(6) DEFAULT NULL;
    SELECT d.quantity, c.once_per INTO allowed, scope
        FROM drops d JOIN coupons c ON c.id = d.coupon_id WHERE d.id = NEW.drop_id FOR SHARE OF d;
    IF NEW.slot < 1 OR NEW.slot > allowed THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'firstcome: slot outside 1..quantity of its drop';
    END IF;
    SET NEW.person_scope = IF(scope = 'coupon', 0, NEW.drop_id);
END;

CREATE TRIGGER IF NOT EXISTS issued_coupons_before_update BEFORE UPDATE ON issued_coupons FOR EACH ROW
BEGIN
    DECLARE allowed INT UNSIGNED DEFAULT NULL;
    DECLARE scope VARCHAR(6) DEFAULT NULL;
    SELECT d.quantity, c.once_per INTO allowed, scope
        FROM drops d JOIN coupons c ON c.id = d.coupon_id WHERE d.id = NEW.drop_id FOR SHARE OF d;
    IF NEW.slot < 1 OR NEW.slot > allowed THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'firstcome: slot outside 1..quantity of its drop';
    END IF;
    SET NEW.person_scope = IF(scope = 'coupon', 0, NEW.drop_id);
END;

-- Conversely, a quantity lowered below an issued slot would make that row surplus.
CREATE TRIGGER IF NOT EXISTS drops_before_update BEFORE UPDATE ON drops FOR EACH ROW
BEGIN
    IF NEW.quantity < OLD.quantity
        AND EXISTS (SELECT 1 FROM issued_coupons i WHERE i.drop_id = OLD.id AND i.slot > NEW.quantity) THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'firstcome: quantity below a slot that is issued';
    END IF;
END;

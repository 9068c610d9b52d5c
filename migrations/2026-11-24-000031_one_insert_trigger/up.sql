-- One trigger instead of two: each costs MySQL time for every row, and so does each of its
-- variables, even if it does nothing (docs/decisions/0011-slot-limits.md). A row that names its
-- limit is guarded by foreign key and CHECK. A row without a limit is inserted by hand, or alone:
-- the trigger checks whether its claim is revoked, and finds its limit. It acts only if slot_limit
-- is still 0, and the old trigger that checks revocations is dropped last, so that no row is ever
-- written without a guard.
CREATE TRIGGER IF NOT EXISTS issued_coupons_insert BEFORE INSERT ON issued_coupons FOR EACH ROW
BEGIN
    IF NEW.slot_limit = 0 THEN
        IF EXISTS (SELECT 1 FROM revoked_coupons r
            WHERE r.coupon_id = NEW.coupon_id AND r.user_id = NEW.user_id
            AND (r.person_scope = 0 OR r.person_scope = NEW.drop_id)
            AND (r.again_from IS NULL OR NEW.claimed_at <= r.again_from) FOR SHARE) THEN
            SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'firstcome: revoked: this claim was given back or revoked';
        END IF;
        SET NEW.slot_limit = COALESCE((SELECT l.slot_limit FROM slot_limits l
            WHERE l.drop_id = NEW.drop_id AND l.slot_limit >= NEW.slot ORDER BY l.slot_limit LIMIT 1 FOR SHARE), 0);
        IF NEW.slot < 1 OR (NEW.slot_limit = 0 AND EXISTS (SELECT 1 FROM slot_limits l WHERE l.drop_id = NEW.drop_id)) THEN
            SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'firstcome: slot outside 1..quantity of its drop';
        END IF;
        -- A drop that does not exist has no limit either: the foreign key reports it.
        SET NEW.person_scope = COALESCE((SELECT l.person_scope FROM slot_limits l
                WHERE l.drop_id = NEW.drop_id AND l.slot_limit = NEW.slot_limit LIMIT 1 FOR SHARE), 0),
            NEW.slot_limit = IF(NEW.slot_limit = 0, NEW.slot, NEW.slot_limit);
    END IF;
END;

DROP TRIGGER IF EXISTS issued_coupons_limit_insert;
DROP TRIGGER IF EXISTS issued_coupons_revoked_insert;

CREATE TRIGGER IF NOT EXISTS issued_coupons_limit_insert BEFORE INSERT ON issued_coupons FOR EACH ROW
BEGIN
    DECLARE found_limit INT UNSIGNED DEFAULT 0;
    DECLARE found_scope BIGINT DEFAULT 0;
    IF NEW.slot_limit = 0 THEN
        SELECT l.slot_limit, l.person_scope INTO found_limit, found_scope FROM slot_limits l
            WHERE l.drop_id = NEW.drop_id AND l.slot_limit >= NEW.slot ORDER BY l.slot_limit LIMIT 1 FOR SHARE;
        IF NEW.slot < 1 OR (found_limit = 0 AND EXISTS (SELECT 1 FROM slot_limits l WHERE l.drop_id = NEW.drop_id)) THEN
            SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'firstcome: slot outside 1..quantity of its drop';
        END IF;
        SET NEW.slot_limit = IF(found_limit = 0, NEW.slot, found_limit), NEW.person_scope = found_scope;
    END IF;
END;
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
DROP TRIGGER IF EXISTS issued_coupons_insert;

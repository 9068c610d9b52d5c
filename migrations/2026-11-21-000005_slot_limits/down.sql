ALTER TABLE issued_coupons
    ADD KEY issued_coupons_drop (drop_id, coupon_id),
    ADD CONSTRAINT issued_coupons_drop FOREIGN KEY (drop_id, coupon_id) REFERENCES drops (id, coupon_id),
    DROP FOREIGN KEY issued_coupons_limit, DROP KEY issued_coupons_limit, DROP CONSTRAINT issued_coupons_within;
DROP TRIGGER IF EXISTS drops_after_insert;
DROP TRIGGER IF EXISTS drops_after_update;
DROP TRIGGER IF EXISTS issued_coupons_limit_insert;
DROP TRIGGER IF EXISTS issued_coupons_limit_update;
ALTER TABLE issued_coupons DROP COLUMN slot_limit;
DROP TABLE IF EXISTS slot_limits;
CREATE TRIGGER issued_coupons_before_insert BEFORE INSERT ON issued_coupons FOR EACH ROW
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
CREATE TRIGGER issued_coupons_before_update BEFORE UPDATE ON issued_coupons FOR EACH ROW
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

DROP TRIGGER IF EXISTS drops_limits_insert;
CREATE TRIGGER IF NOT EXISTS drops_after_insert AFTER INSERT ON drops FOR EACH ROW
BEGIN
    DECLARE next_limit BIGINT DEFAULT 65536;
    WHILE next_limit < NEW.quantity DO
        INSERT INTO slot_limits (drop_id, slot_limit, coupon_id, person_scope) VALUES (NEW.id, next_limit, NEW.coupon_id, 0);
        SET next_limit = next_limit + 65536;
    END WHILE;
    INSERT INTO slot_limits (drop_id, slot_limit, coupon_id, person_scope) VALUES (NEW.id, NEW.quantity, NEW.coupon_id, 0);
END;

-- The row of a lost drop is restored while its limits still exist, because rows refer to them. The
-- new trigger is created first, so that no drop is ever created without limits.
CREATE TRIGGER IF NOT EXISTS drops_limits_insert AFTER INSERT ON drops FOR EACH ROW
BEGIN
    DECLARE next_limit BIGINT DEFAULT 65536;
    WHILE next_limit < NEW.quantity DO
        IF NOT EXISTS (SELECT 1 FROM slot_limits l WHERE l.drop_id = NEW.id AND l.slot_limit = next_limit) THEN
            INSERT INTO slot_limits (drop_id, slot_limit, coupon_id, person_scope) VALUES (NEW.id, next_limit, NEW.coupon_id, 0);
        END IF;
        SET next_limit = next_limit + 65536;
    END WHILE;
    IF NOT EXISTS (SELECT 1 FROM slot_limits l WHERE l.drop_id = NEW.id AND l.slot_limit = NEW.quantity) THEN
        INSERT INTO slot_limits (drop_id, slot_limit, coupon_id, person_scope) VALUES (NEW.id, NEW.quantity, NEW.coupon_id, 0);
    END IF;
END;

DROP TRIGGER IF EXISTS drops_after_insert;

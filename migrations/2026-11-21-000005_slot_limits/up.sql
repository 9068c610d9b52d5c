-- Refuses a slot above the quantity by a foreign key and a CHECK, not by a query for each row: a
-- row names its limit, the limit must exist for its drop (foreign key), and the slot must not be
-- above it (CHECK).
--   a limit of a drop    its quantity, every lower quantity it had, and every multiple of 65536 below: lowering a quantity
--                        then rewrites 65536 rows at most
--   a row's limit        any that is not below its slot; the writer gives one with its person_scope, or neither: then the trigger
--                        looks for them
-- Each statement can be run again after a crash half-way.
-- The rows' own limit. 0: the writer gives none.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'issued_coupons' AND column_name = 'slot_limit');
SET @sql = IF(@todo, 'ALTER TABLE issued_coupons ADD COLUMN slot_limit INT UNSIGNED NOT NULL DEFAULT 0 INVISIBLE', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

CREATE TABLE IF NOT EXISTS slot_limits (
    drop_id      BIGINT       NOT NULL,
    slot_limit   INT UNSIGNED NOT NULL,
    coupon_id    BIGINT       NOT NULL,
    person_scope BIGINT       NOT NULL,
    PRIMARY KEY (drop_id, slot_limit, coupon_id, person_scope),
    KEY slot_limits_drop (drop_id, coupon_id),
    CONSTRAINT slot_limits_drop FOREIGN KEY (drop_id, coupon_id) REFERENCES drops (id, coupon_id) ON DELETE CASCADE
) DEFAULT CHARACTER SET utf8mb4;

-- Prevents a limit above the quantity, or with the wrong scope, from being inserted by hand.
DROP TRIGGER IF EXISTS slot_limits_before_insert;
CREATE TRIGGER slot_limits_before_insert BEFORE INSERT ON slot_limits FOR EACH ROW
BEGIN
    DECLARE allowed INT UNSIGNED DEFAULT NULL;
    DECLARE scope VARCHAR(6) DEFAULT NULL;
    SELECT d.quantity, c.once_per INTO allowed, scope
        FROM drops d JOIN coupons c ON c.id = d.coupon_id WHERE d.id = NEW.drop_id FOR SHARE OF d;
    IF NEW.slot_limit > allowed THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'firstcome: limit above the quantity of its drop';
    END IF;
    SET NEW.person_scope = IF(scope = 'coupon', 0, NEW.drop_id);
END;

DROP TRIGGER IF EXISTS slot_limits_before_update;
CREATE TRIGGER slot_limits_before_update BEFORE UPDATE ON slot_limits FOR EACH ROW
BEGIN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'firstcome: limits follow the quantity of their drop; change that';
END;

-- A new drop's limits.
DROP TRIGGER IF EXISTS drops_after_insert;
CREATE TRIGGER drops_after_insert AFTER INSERT ON drops FOR EACH ROW
BEGIN
    DECLARE next_limit BIGINT DEFAULT 65536;
    WHILE next_limit < NEW.quantity DO
        INSERT INTO slot_limits (drop_id, slot_limit, coupon_id, person_scope) VALUES (NEW.id, next_limit, NEW.coupon_id, 0);
        SET next_limit = next_limit + 65536;
    END WHILE;
    INSERT INTO slot_limits (drop_id, slot_limit, coupon_id, person_scope) VALUES (NEW.id, NEW.quantity, NEW.coupon_id, 0);
END;

-- A quantity lowered below an issued slot would make that row surplus. A locking read: it waits for
-- rows that are being written, and sees those that were written since this transaction began.
DROP TRIGGER IF EXISTS drops_before_update;
CREATE TRIGGER drops_before_update BEFORE UPDATE ON drops FOR EACH ROW
BEGIN
    DECLARE issued INT UNSIGNED DEFAULT NULL;
    IF NEW.quantity < OLD.quantity THEN
        SELECT i.slot INTO issued FROM issued_coupons i WHERE i.drop_id = OLD.id AND i.slot > NEW.quantity LIMIT 1 FOR SHARE;
        IF issued IS NOT NULL THEN
            SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'firstcome: quantity below a slot that is issued';
        END IF;
    END IF;
END;

-- Limits follow the quantity. If it is lowered, rows with a higher limit get the new one, and the
-- higher limits are deleted.
DROP TRIGGER IF EXISTS drops_after_update;
CREATE TRIGGER drops_after_update AFTER UPDATE ON drops FOR EACH ROW
BEGIN
    DECLARE next_limit BIGINT DEFAULT (OLD.quantity DIV 65536 + 1) * 65536;
    IF NEW.quantity <> OLD.quantity THEN
        WHILE next_limit < NEW.quantity DO
            INSERT INTO slot_limits (drop_id, slot_limit, coupon_id, person_scope)
                VALUES (NEW.id, next_limit, NEW.coupon_id, 0);
            SET next_limit = next_limit + 65536;
        END WHILE;
        IF NOT EXISTS (SELECT 1 FROM slot_limits l WHERE l.drop_id = NEW.id AND l.slot_limit = NEW.quantity) THEN
            INSERT INTO slot_limits (drop_id, slot_limit, coupon_id, person_scope)
                VALUES (NEW.id, NEW.quantity, NEW.coupon_id, 0);
        END IF;
        IF NEW.quantity < OLD.quantity THEN
            UPDATE issued_coupons SET slot_limit = NEW.quantity WHERE drop_id = NEW.id AND slot_limit > NEW.quantity;
            DELETE FROM slot_limits WHERE drop_id = NEW.id AND slot_limit > NEW.quantity;
        END IF;
    END IF;
END;

-- The limits of existing drops, created before any row needs one.
INSERT INTO slot_limits (drop_id, slot_limit, coupon_id, person_scope)
    SELECT d.id, n.slot_limit, d.coupon_id, 0
        FROM drops d JOIN (
            SELECT 65536 * (a.n + 100 * b.n) AS slot_limit
                FROM (SELECT t.n + 10 * u.n AS n FROM
                    (SELECT 0 n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6
                     UNION SELECT 7 UNION SELECT 8 UNION SELECT 9) t,
                    (SELECT 0 n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6
                     UNION SELECT 7 UNION SELECT 8 UNION SELECT 9) u) a,
                    (SELECT 0 n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6) b
        ) n ON n.slot_limit > 0 AND n.slot_limit < d.quantity
        WHERE NOT EXISTS (SELECT 1 FROM slot_limits l WHERE l.drop_id = d.id AND l.slot_limit = n.slot_limit);
INSERT INTO slot_limits (drop_id, slot_limit, coupon_id, person_scope)
    SELECT d.id, d.quantity, d.coupon_id, 0 FROM drops d
        WHERE NOT EXISTS (SELECT 1 FROM slot_limits l WHERE l.drop_id = d.id AND l.slot_limit = d.quantity);
-- With new names, and created before the old ones are dropped, so that no row is ever written
-- without a trigger.
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
        -- A drop that does not exist has no limit either: the foreign key reports it.
        SET NEW.slot_limit = IF(found_limit = 0, NEW.slot, found_limit), NEW.person_scope = found_scope;
    END IF;
END;

-- Whatever limit and scope an UPDATE sets, a row that moves gets those of its new place.
CREATE TRIGGER IF NOT EXISTS issued_coupons_limit_update BEFORE UPDATE ON issued_coupons FOR EACH ROW
BEGIN
    DECLARE found_limit INT UNSIGNED DEFAULT 0;
    DECLARE found_scope BIGINT DEFAULT 0;
    IF NEW.drop_id <> OLD.drop_id OR NEW.slot <> OLD.slot OR NEW.person_scope <> OLD.person_scope THEN
        SELECT l.slot_limit, l.person_scope INTO found_limit, found_scope FROM slot_limits l
            WHERE l.drop_id = NEW.drop_id AND l.slot_limit >= NEW.slot ORDER BY l.slot_limit LIMIT 1 FOR SHARE;
        IF NEW.slot < 1 OR (found_limit = 0 AND EXISTS (SELECT 1 FROM slot_limits l WHERE l.drop_id = NEW.drop_id)) THEN
            SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'firstcome: slot outside 1..quantity of its drop';
        END IF;
        -- A drop that does not exist has no limit either: the foreign key reports it.
        SET NEW.slot_limit = IF(found_limit = 0, NEW.slot, found_limit), NEW.person_scope = found_scope;
    END IF;
END;

DROP TRIGGER IF EXISTS issued_coupons_before_insert;
DROP TRIGGER IF EXISTS issued_coupons_before_update;

-- Rows that were written before the trigger existed.
UPDATE issued_coupons i JOIN drops d ON d.id = i.drop_id
    SET i.slot_limit = LEAST(d.quantity, (i.slot + 65535) DIV 65536 * 65536) WHERE i.slot_limit = 0;

-- From here on every row refers to a limit of its drop, which replaces the row's own foreign key to
-- the drop.
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.table_constraints
    WHERE table_schema = DATABASE() AND table_name = 'issued_coupons' AND constraint_name = 'issued_coupons_limit');
SET @sql = IF(@todo, 'ALTER TABLE issued_coupons
    ADD KEY issued_coupons_limit (drop_id, slot_limit, coupon_id, person_scope),
    ADD CONSTRAINT issued_coupons_limit FOREIGN KEY (drop_id, slot_limit, coupon_id, person_scope)
        REFERENCES slot_limits (drop_id, slot_limit, coupon_id, person_scope),
    ADD CONSTRAINT issued_coupons_within CHECK (slot <= slot_limit),
    DROP FOREIGN KEY issued_coupons_drop, DROP KEY issued_coupons_drop', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

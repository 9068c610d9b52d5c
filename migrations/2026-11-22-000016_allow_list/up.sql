-- Restricted coupons (docs/decisions/0019-allow-list.md). Each statement can be run again after a
-- crash half-way.
--   allow_rule             NULL: everybody; `list`: users on the coupon's allow list; `group:NAME`: users whose token names it
--   allow_list_revision    the coupon's revision at the last change of its list, 0 before the first: which list Redis must have
--   allow_list_people      how many are on it
--   allow_list_changed_at  when that was
SET @todo = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'coupons' AND column_name = 'allow_rule');
SET @sql = IF(@todo, 'ALTER TABLE coupons
    ADD COLUMN allow_rule VARCHAR(70) CHARACTER SET ascii COLLATE ascii_bin NULL,
    ADD COLUMN allow_list_revision BIGINT UNSIGNED NOT NULL DEFAULT 0,
    ADD COLUMN allow_list_people INT UNSIGNED NOT NULL DEFAULT 0,
    ADD COLUMN allow_list_changed_at DATETIME(3) NULL', 'DO 0');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;

-- The users on a coupon's allow list. Ids compare byte by byte, as everywhere.
CREATE TABLE IF NOT EXISTS coupon_allow_list (
    coupon_id BIGINT      NOT NULL,
    user_id   VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    PRIMARY KEY (coupon_id, user_id),
    CONSTRAINT coupon_allow_list_of_coupon FOREIGN KEY (coupon_id) REFERENCES coupons (id)
) DEFAULT CHARACTER SET utf8mb4;

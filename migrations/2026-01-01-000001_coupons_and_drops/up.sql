-- MySQL has no transactional DDL: every statement here can be run again after a crash half-way.

-- Coupons. `once_per` is the scope in which one person may hold one: the whole coupon, or each
-- drop.
CREATE TABLE IF NOT EXISTS coupons (
    id           BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    name         VARCHAR(200) NOT NULL,
    quantity     INT UNSIGNED NOT NULL,
    once_per     VARCHAR(6)   CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    waiting_list INT UNSIGNED NOT NULL DEFAULT 0,
    paused       BOOLEAN      NOT NULL DEFAULT FALSE,
    schedule     JSON         NULL,
    created_at   DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    CONSTRAINT coupons_quantity CHECK (quantity >= 1),
    CONSTRAINT coupons_once_per CHECK (once_per IN ('coupon', 'drop'))
) DEFAULT CHARACTER SET utf8mb4;

-- Issued rows depend on the scope of "one each", so it can't change later.
CREATE TRIGGER IF NOT EXISTS coupons_before_update BEFORE UPDATE ON coupons FOR EACH ROW
BEGIN
    IF NEW.once_per <> OLD.once_per THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'firstcome: once_per of a coupon cannot change; make a new coupon';
    END IF;
END;

-- One opening of a coupon. `local_date` is the day in the coupon's time zone; a coupon has at most
-- one drop per day, however many processes create drops concurrently. `sealed_at` is set by the
-- reconciler once a closed drop was verified exact.
CREATE TABLE IF NOT EXISTS drops (
    id             BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    coupon_id      BIGINT       NOT NULL,
    local_date     DATE         NULL,
    opens_at       DATETIME(3)  NOT NULL,
    closes_at      DATETIME(3)  NULL,
    quantity       INT UNSIGNED NOT NULL,
    created_at     DATETIME(3)  NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    sealed_at      DATETIME(3)  NULL,
    sealed_rows    INT UNSIGNED NULL,
    silenced_until DATETIME(3)  NULL,
    silenced_by    VARCHAR(100) NULL,
    UNIQUE KEY drops_one_a_day (coupon_id, local_date),
    UNIQUE KEY drops_with_coupon (id, coupon_id),
    KEY drops_unsealed (sealed_at, opens_at),
    CONSTRAINT drops_quantity CHECK (quantity >= 1),
    CONSTRAINT drops_window CHECK (closes_at IS NULL OR closes_at > opens_at),
    CONSTRAINT drops_coupon FOREIGN KEY (coupon_id) REFERENCES coupons (id)
) DEFAULT CHARACTER SET utf8mb4;

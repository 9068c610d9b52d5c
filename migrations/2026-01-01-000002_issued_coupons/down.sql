DROP TRIGGER IF EXISTS drops_before_update;
DROP TABLE IF EXISTS issued_coupons;

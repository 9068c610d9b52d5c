DROP TRIGGER IF EXISTS issued_coupons_revoked_insert;
DROP TABLE IF EXISTS revoked_coupons;

ALTER TABLE coupons DROP COLUMN revision;

DROP TABLE idempotency_keys;
ALTER TABLE drops DROP KEY drops_opened;
ALTER TABLE coupons DROP KEY coupons_daily_until, DROP COLUMN daily_until;

ALTER TABLE failed_claims DROP COLUMN traceparent;
ALTER TABLE issued_coupons DROP COLUMN traceparent;

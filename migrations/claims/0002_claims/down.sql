SET foreign_key_checks = 0;
DROP TABLE coupons, coupon_allow_list, drops, slot_limits, issued_coupons, revoked_coupons, coupon_uses, code_key,
    failed_claims, broken_promises, topic_positions;
SET foreign_key_checks = 1;

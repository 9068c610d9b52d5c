DROP TABLE IF EXISTS coupon_allow_list;
ALTER TABLE coupons DROP COLUMN allow_rule, DROP COLUMN allow_list_revision, DROP COLUMN allow_list_people,
    DROP COLUMN allow_list_changed_at;

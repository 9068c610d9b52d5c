-- Erases one user from the coupons that are over: a pseudonym replaces the id, random texts the
-- codes. Rows stay, so totals stay exact (docs/OPERATIONS.md, "Erase a user"). Codes that are still
-- valid are replaced, too (valid_until, valid_days): shops then get 404 for them. It cannot be
-- undone, and may be repeated. Run it with the user's id:
--   mysql --init-command="SET @user = 'u-1'" firstcome < deploy/erase-user.sql
-- Untouched: coupons that are not over (Redis and passes need the id until two hours after the last
-- drop was sealed), and everything while a dead letter or a broken promise of the user is open. The
-- last statement lists what still names the user.
SET time_zone = '+00:00';
SET @user = CONVERT(@user USING ascii) COLLATE ascii_bin, @pseudonym = CONCAT('erased-', LOWER(HEX(RANDOM_BYTES(10))));
CREATE TEMPORARY TABLE ended (id BIGINT PRIMARY KEY) SELECT id FROM coupons
    WHERE COALESCE(daily_until < CONVERT(UTC_DATE() - INTERVAL 1 DAY USING utf8mb4) COLLATE utf8mb4_bin, TRUE)
    AND NOT EXISTS (SELECT 1 FROM drops WHERE coupon_id = coupons.id AND COALESCE(sealed_at > UTC_TIMESTAMP() - INTERVAL 2 HOUR, TRUE))
    AND NOT EXISTS (SELECT 1 FROM failed_claims WHERE user_id = @user AND resolved_at IS NULL)
    AND NOT EXISTS (SELECT 1 FROM broken_promises WHERE user_id = @user AND mended_at IS NULL);
START TRANSACTION;
UPDATE ended STRAIGHT_JOIN issued_coupons t ON t.coupon_id = ended.id AND t.user_id = @user
    SET t.user_id = @pseudonym, t.code = CONCAT('erased-', LOWER(HEX(RANDOM_BYTES(10))));
UPDATE ended STRAIGHT_JOIN revoked_coupons t ON t.coupon_id = ended.id AND t.user_id = @user
    SET t.user_id = @pseudonym, t.code = IF(t.code IS NULL, NULL, CONCAT('erased-', LOWER(HEX(RANDOM_BYTES(10))))),
    t.reason = 'erased', t.revoked_by = 'erased';
UPDATE ended STRAIGHT_JOIN broken_promises t ON t.coupon_id = ended.id AND t.user_id = @user SET t.user_id = @pseudonym, t.reason = 'erased';
-- The hash covers the message, which contains the id.
UPDATE ended STRAIGHT_JOIN failed_claims t ON t.coupon_id = ended.id AND t.user_id = @user
    SET t.user_id = @pseudonym, t.payload = NULL, t.source_hash = NULL, t.error = NULL, t.resolution_detail = NULL;
UPDATE ended STRAIGHT_JOIN reconcile_findings t ON t.coupon_id = ended.id AND t.user_id = @user SET t.user_id = @pseudonym, t.detail = 'erased';
-- Hashes of data with the id could confirm a guess. A firing alert is mailed once more because of
-- this.
UPDATE reconcile_runs SET content = 0 WHERE content IS NOT NULL;
UPDATE told SET told_cases = NULL;
UPDATE levels SET cases = NULL;
UPDATE ops_actions SET detail = JSON_REPLACE(CAST(REPLACE(CAST(detail AS CHAR CHARACTER SET utf8mb4), JSON_QUOTE(@user), JSON_QUOTE(@pseudonym)) AS JSON),
    '$.reason', 'erased', '$.why', 'erased')
    WHERE JSON_SEARCH(detail, 'one', REPLACE(@user, '_', '\\_')) IS NOT NULL AND (coupon_id IS NULL OR coupon_id IN (SELECT id FROM ended));
INSERT INTO ops_actions (operator, token, action, detail) VALUES (CURRENT_USER(), 'by SQL', 'erase', JSON_OBJECT('erased_as', @pseudonym));
COMMIT;
DROP TEMPORARY TABLE ended;
SELECT 'issued_coupons' AS still_names_the_user, c.id FROM coupons c STRAIGHT_JOIN issued_coupons t ON t.coupon_id = c.id AND t.user_id = @user UNION
    SELECT 'revoked_coupons', c.id FROM coupons c STRAIGHT_JOIN revoked_coupons t ON t.coupon_id = c.id AND t.user_id = @user UNION
    SELECT 'broken_promises', c.id FROM coupons c STRAIGHT_JOIN broken_promises t ON t.coupon_id = c.id AND t.user_id = @user UNION
    SELECT 'coupon_allow_list', c.id FROM coupons c STRAIGHT_JOIN coupon_allow_list t ON t.coupon_id = c.id AND t.user_id = @user UNION
    SELECT 'failed_claims', coupon_id FROM failed_claims WHERE user_id = @user;

//! Systems of tickets, seats and stock as published projects build them: joins, several tables, a
//! status, numbers beside the rows. Each is described by its team's own SQL.

use crate::published::DOWN;
use crate::{Repair, System, fault};

const MISSING: &[&str] = &["1 missing_admission skipped"];
const COUNT: &[&str] = &["1 count_mismatch skipped"];
const CHECK: &[&str] = &["1 check skipped"];
const UNISSUED: &[&str] = &["1 unissued skipped"];

pub const OBSERVED: System = System {
    named: UNISSUED,
    repair: Repair::Observes,
    faults: &[fault(&["SREM @users {U}"], MISSING)],
    ..DOWN
};

pub const SYSTEMS: &[System] = &[
    System {
        name: "kbo-ticketing-platform: rows follow the payment, and the set holds who has not paid",
        opens: &[
            "CREATE TABLE payment (id INT AUTO_INCREMENT PRIMARY KEY, user_id BIGINT, status VARCHAR(9))",
            "CREATE TABLE payment_membership (payment_id INT, membership_id INT)",
            "CREATE TABLE membership_user (user_id BIGINT, membership_id INT, is_deleted BOOL NOT NULL DEFAULT 0)",
        ],
        admits: &[
            "INSERT INTO payment (user_id, status) VALUES ({U}, 'CONFIRMED')",
            "INSERT INTO payment_membership SELECT MAX(id), 7 FROM payment",
        ],
        issues: &["INSERT INTO membership_user (user_id, membership_id) VALUES ({U}, 7)"],
        file: "[[campaign]]
name = 'Membership'
quantity = 30
promised = \"SELECT p.user_id FROM payment p JOIN payment_membership m ON m.payment_id = p.id \
            WHERE m.membership_id = 7 AND p.status = 'CONFIRMED'\"
issued = 'SELECT user_id, is_deleted = 0 FROM membership_user WHERE membership_id = 7'",
        loses: &["DELETE FROM membership_user WHERE user_id = {U}"],
        faults: &[
            fault(&["SADD @membership 900", "INSERT INTO payment (user_id, status) VALUES (900, 'READY')"], &[]),
            fault(&["UPDATE membership_user SET is_deleted = 1 WHERE user_id = {U}"], &[]),
        ],
        ..OBSERVED
    },
    System {
        name: "fcfs-ticket: a failed payment cancels the row, and leaves the user in the set",
        opens: &[
            "CREATE TABLE reservations (user_id BIGINT, concert_id INT, status VARCHAR(9) DEFAULT 'PENDING')",
            "SET @stock 30",
        ],
        issues: &["INSERT INTO reservations (user_id, concert_id) VALUES ({U}, 1)"],
        file: "[[campaign]]
name = 'Concert 1'
quantity = 30
promised = { set = '@users' }
issued = \"SELECT user_id, status <> 'CANCELED' FROM reservations WHERE concert_id = 1\"
count = { key = '@stock', counts = 'down' }",
        loses: &["DELETE FROM reservations WHERE user_id = {U}"],
        faults: &[fault(&["UPDATE reservations SET status = 'CANCELED' WHERE user_id = {U}", "INCR @stock"], &[])],
        ..OBSERVED
    },
    System {
        name: "coupon-mass-issuance: a stock row, a list, and no unique key",
        opens: &[
            "CREATE TABLE coupons (id INT PRIMARY KEY, title VARCHAR(20), total_quantity INT, issued_quantity INT)",
            "INSERT INTO coupons VALUES (7, 'Winter', 30, 0)",
            "CREATE TABLE coupon_issues (coupon_id INT, user_id BIGINT, date_issued DATETIME(6))",
        ],
        admits: &["SADD @users:7 {U}"],
        issues: &[
            "UPDATE coupons SET issued_quantity = issued_quantity + 1 WHERE id = 7",
            "INSERT INTO coupon_issues VALUES (7, {U}, NOW(6))",
        ],
        file: "[[campaign]]
name = 'Coupons'
each = 'SELECT id, title, total_quantity FROM coupons'
promised = { set = '@users:{id}' }
issued = 'SELECT user_id FROM coupon_issues WHERE coupon_id = :id'
queue = [{ list = '@request' }]
mode = 'repair'
issue = ['UPDATE coupons SET issued_quantity = issued_quantity + 1 WHERE id = :id AND issued_quantity < total_quantity',
  'INSERT INTO coupon_issues VALUES (:id, :user, NOW(6))']
check = ['SELECT id FROM coupons WHERE id = :id AND issued_quantity <> (SELECT COUNT(*) FROM coupon_issues WHERE coupon_id = :id)']",
        loses: &[
            "DELETE FROM coupon_issues WHERE user_id = {U}",
            "UPDATE coupons SET issued_quantity = issued_quantity - 1",
        ],
        repair: Repair::Asks,
        faults: &[
            fault(&["UPDATE coupons SET issued_quantity = issued_quantity + 1"], CHECK),
            fault(&["UPDATE coupons SET issued_quantity = issued_quantity - 1"], &[]),
        ],
        ..DOWN
    },
    System {
        name: "vkeh2431/flash-coupon-system: several columns, and a unique key",
        opens: &[
            "CREATE TABLE campaign (id INT PRIMARY KEY, name VARCHAR(20), total_quantity INT, closes_at DATETIME)",
            "INSERT INTO campaign VALUES (7, 'Flash', 30, NOW() + INTERVAL 1 DAY), (6, 'Old', 5, NOW() - INTERVAL 9 DAY)",
            "CREATE TABLE coupon (id INT AUTO_INCREMENT PRIMARY KEY, user_id BIGINT, campaign_id INT, status VARCHAR(9), \
            issued_at DATETIME(6), UNIQUE (user_id, campaign_id))",
            "SET @stock:7 30",
        ],
        admits: &["DECR @stock:7", "SADD @users:7 {U}"],
        issues: &["INSERT INTO coupon (user_id, campaign_id, status, issued_at) VALUES ({U}, 7, 'ISSUED', NOW(6))"],
        file: "[[campaign]]
name = 'Flash'
each = 'SELECT id, name, total_quantity FROM campaign WHERE closes_at > NOW() - INTERVAL 1 DAY'
promised = { set = '@users:{id}' }
issued = 'SELECT user_id FROM coupon WHERE campaign_id = :id'
count = { key = '@stock:{id}', counts = 'down' }
queue = []
mode = 'repair'
issue = [\"INSERT INTO coupon (user_id, campaign_id, status, issued_at) VALUES (:user, :id, 'ISSUED', NOW(6))\"]
check = []",
        faults: &[fault(&["SREM @users:7 {U}"], MISSING), fault(&["UPDATE coupon SET status = 'USED'"], &[])],
        ..DOWN
    },
    System {
        name: "HealthPower: login names in Redis, numbers in rows",
        opens: &[
            "CREATE TABLE user (id INT AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(20))",
            "CREATE TABLE couponissuance (coupon_id INT, user_id INT, issued_at DATETIME)",
            "SET @stock 30",
        ],
        admits: &["DECR @stock", "SADD @users login-{U}", "INSERT INTO user (user_id) VALUES ('login-{U}')"],
        issues: &["INSERT INTO couponissuance SELECT 7, id, NOW() FROM user WHERE user_id = 'login-{U}'"],
        file: "[[campaign]]
name = 'Coupon 7'
quantity = 30
promised = { set = '@users' }
issued = 'SELECT u.user_id FROM couponissuance c JOIN `user` u ON u.id = c.user_id WHERE c.coupon_id = 7'
count = { key = '@stock', counts = 'down' }
queue = []
mode = 'repair'
issue = ['INSERT INTO couponissuance SELECT 7, id, NOW() FROM `user` WHERE user_id = :user']
check = []",
        loses: &["DELETE FROM couponissuance WHERE user_id = {U}"],
        repair: Repair::Asks,
        faults: &[fault(&["SREM @users login-{U}"], MISSING)],
        ..DOWN
    },
    System {
        name: "ecommerce-server: a column counts the rows",
        opens: &[
            "CREATE TABLE coupons (id INT PRIMARY KEY, name VARCHAR(20), total_quantity INT, issued_quantity INT)",
            "INSERT INTO coupons VALUES (7, 'Winter', 30, 0)",
            "CREATE TABLE user_coupons (user_id BIGINT, coupon_id INT, UNIQUE (user_id, coupon_id))",
        ],
        admits: &["INCR @count:7", "SADD @users:7 {U}"],
        issues: &["INSERT INTO user_coupons VALUES ({U}, 7)", "UPDATE coupons SET issued_quantity = issued_quantity + 1"],
        file: "[[campaign]]
name = 'Coupons'
each = 'SELECT id, name, total_quantity FROM coupons'
promised = { set = '@users:{id}' }
issued = 'SELECT user_id FROM user_coupons WHERE coupon_id = :id'
count = { key = '@count:{id}', counts = 'up' }
queue = []
mode = 'repair'
issue = ['INSERT INTO user_coupons VALUES (:user, :id)', 'UPDATE coupons SET issued_quantity = issued_quantity + 1 WHERE id = :id']
check = ['SELECT id FROM coupons WHERE id = :id AND issued_quantity <> (SELECT COUNT(*) FROM user_coupons WHERE coupon_id = :id)']",
        loses: &["DELETE FROM user_coupons WHERE user_id = {U}", "UPDATE coupons SET issued_quantity = issued_quantity - 1"],
        faults: &[
            fault(&["UPDATE coupons SET issued_quantity = issued_quantity - 1"], CHECK),
            fault(&["UPDATE coupons SET issued_quantity = issued_quantity + 1"], &[]),
        ],
        ..DOWN
    },
    System {
        name: "Bowucode: a stream, and a state of rows",
        opens: &[
            "CREATE TABLE ms_reserve (id INT PRIMARY KEY, title VARCHAR(20), total INT)",
            "INSERT INTO ms_reserve VALUES (7, 'Exhibition', 30)",
            "CREATE TABLE ms_reserve_detail (res_id INT, user_id BIGINT, vld_stat CHAR(1) DEFAULT '1')",
            "SET @stock:7 30",
            "XGROUP CREATE @orders g1 0 MKSTREAM",
        ],
        admits: &["DECR @stock:7", "SADD @users:7 {U}"],
        issues: &["INSERT INTO ms_reserve_detail (res_id, user_id) VALUES (7, {U})"],
        file: "[[campaign]]
name = 'Exhibitions'
each = 'SELECT id, title, total FROM ms_reserve'
promised = { set = '@users:{id}' }
issued = \"SELECT user_id, vld_stat = '1' FROM ms_reserve_detail WHERE res_id = :id\"
count = { key = '@stock:{id}', counts = 'down' }
queue = [{ stream = '@orders', group = 'g1' }]",
        loses: &["DELETE FROM ms_reserve_detail WHERE user_id = {U}"],
        faults: &[fault(&["UPDATE ms_reserve_detail SET vld_stat = '0' WHERE user_id = {U}", "INCR @stock:7"], &[])],
        ..OBSERVED
    },
    System {
        name: "course_grab: no unique key, and a broker that cannot be read",
        file: "[[campaign]]
name = 'Course'
quantity = 30
promised = { set = '@users' }
issued = 'SELECT user_id FROM coupon'
count = { key = '@stock', counts = 'down' }",
        ..OBSERVED
    },
    System {
        name: "Seckill_Yue: a key a user with the order's number",
        admits: &["SET @user:7:{U} order-{U}"],
        file: "[[campaign]]
name = 'Seckill'
quantity = 30
promised = { keys = '@user:7:{user}' }
issued = 'SELECT user_id FROM coupon'",
        faults: &[fault(&["DEL @user:7:{U}"], MISSING), fault(&["SET @user:7:{U} 1"], &[])],
        ..OBSERVED
    },
    System {
        name: "booking-service: order, line and option",
        opens: &[
            "CREATE TABLE event_option (id INT PRIMARY KEY, event_id INT, promo_stock_total INT)",
            "INSERT INTO event_option VALUES (1, 7, 10), (2, 7, 20)",
            "CREATE TABLE orders (id INT PRIMARY KEY, user_id BIGINT, status VARCHAR(9))",
            "CREATE TABLE order_line (order_id INT, event_option_id INT)",
        ],
        admits: &["SADD @users:7 {U}"],
        issues: &["INSERT INTO orders VALUES ({U}, {U}, 'PAID')", "INSERT INTO order_line VALUES ({U}, 1 + {U} % 2)"],
        file: "[[campaign]]
name = 'Events'
each = 'SELECT event_id, event_id, SUM(promo_stock_total) FROM event_option GROUP BY event_id'
promised = { set = '@users:{id}' }
issued = \"SELECT o.user_id, o.status = 'PAID' FROM orders o JOIN order_line l ON l.order_id = o.id \
            JOIN event_option e ON e.id = l.event_option_id WHERE e.event_id = :id\"",
        loses: &["DELETE FROM orders WHERE id = {U}", "DELETE FROM order_line WHERE order_id = {U}"],
        faults: &[fault(&["SREM @users:7 {U}"], MISSING)],
        ..OBSERVED
    },
    System {
        name: "go-seckill-api: several pieces an order, and the user in the name of a hash",
        opens: &[
            "CREATE TABLE orders (user_id BIGINT, purchase_number INT DEFAULT 1, is_delete INT DEFAULT 0)",
            "HSET @store inventory 30",
        ],
        admits: &["HINCRBY @store inventory -1", "HSET @user:{U}:bought 7 1"],
        issues: &["INSERT INTO orders (user_id) VALUES ({U})"],
        file: "[[campaign]]
name = 'Goods'
quantity = 30
issued = 'SELECT user_id, purchase_number * (is_delete = 0) FROM orders'
count = { key = '@store', field = 'inventory', counts = 'down' }",
        loses: &["DELETE FROM orders WHERE user_id = {U}"],
        named: COUNT,
        faults: &[
            fault(&["UPDATE orders SET purchase_number = 3 WHERE user_id = {U}", "HINCRBY @store inventory -2"], &[]),
            fault(&["UPDATE orders SET is_delete = 1 WHERE user_id = {U}"], COUNT),
        ],
        ..OBSERVED
    },
    System {
        name: "flash-sale-system: a stock column beside the counter",
        opens: &[
            "CREATE TABLE sale_item (id INT PRIMARY KEY, item_title VARCHAR(20), initial_stock INT, available_stock INT)",
            "INSERT INTO sale_item VALUES (7, 'Item', 30, 30)",
            "CREATE TABLE sale_order (user_id BIGINT, item_id INT, quantity INT, status INT)",
            "SET @stock7 30",
        ],
        admits: &["DECR @stock7"],
        issues: &[
            "INSERT INTO sale_order VALUES ({U}, 7, 1, 1)",
            "UPDATE sale_item SET available_stock = available_stock - 1",
        ],
        file: "[[campaign]]
name = 'Sale items'
each = 'SELECT id, item_title, initial_stock FROM sale_item'
issued = 'SELECT user_id, quantity * (status = 1) FROM sale_order WHERE item_id = :id'
count = { key = '@stock{id}', counts = 'down' }
check = ['SELECT i.id FROM sale_item i WHERE i.id = :id AND i.available_stock <> i.initial_stock - \
            (SELECT COALESCE(SUM(quantity), 0) FROM sale_order WHERE item_id = :id AND status = 1)']",
        loses: &[
            "DELETE FROM sale_order WHERE user_id = {U}",
            "UPDATE sale_item SET available_stock = available_stock + 1",
        ],
        named: COUNT,
        faults: &[
            fault(&["UPDATE sale_item SET available_stock = available_stock + 1"], CHECK),
            fault(&["UPDATE sale_item SET available_stock = available_stock - 1"], &[]),
        ],
        ..OBSERVED
    },
    System {
        name: "onecoupon: the field of a hash, and rows in many tables",
        opens: &[
            "CREATE TABLE coupon_0 (user_id BIGINT)",
            "CREATE TABLE coupon_1 (user_id BIGINT)",
            "HSET @template stock 30",
        ],
        admits: &["HINCRBY @template stock -1"],
        issues: &["INSERT INTO coupon_1 VALUES ({U})"],
        file: "[[campaign]]
name = 'Template'
quantity = 30
issued = 'SELECT user_id FROM coupon_0 UNION ALL SELECT user_id FROM coupon_1'
count = { key = '@template', field = 'stock', counts = 'down' }",
        loses: &["DELETE FROM coupon_1 WHERE user_id = {U}"],
        named: COUNT,
        faults: &[fault(&["HINCRBY @template stock 1"], COUNT)],
        ..OBSERVED
    },
    System {
        name: "ThoughtsBeta/flash-sale: buckets in the database, and no Redis",
        opens: &[
            "CREATE TABLE bucket (id INT PRIMARY KEY, total INT, available INT)",
            "INSERT INTO bucket VALUES (1, 15, 15), (2, 15, 15)",
            "CREATE TABLE flash_order (user_id BIGINT)",
        ],
        admits: &["UPDATE bucket SET available = available - 1 WHERE id = 1 + ({U} > 10)"],
        issues: &["INSERT INTO flash_order VALUES ({U})"],
        file: "[[check]]
name = 'buckets'
sql = 'SELECT SUM(total - available) AS sold FROM bucket HAVING sold <> (SELECT COUNT(*) FROM flash_order)'
to_do = 'Move a bucket.'",
        loses: &["DELETE FROM flash_order WHERE user_id = {U}"],
        named: CHECK,
        faults: &[],
        ..OBSERVED
    },
    System {
        name: "a drop a day: the day is the campaign, and a row may be dated a day late",
        opens: &[
            "CREATE TABLE days (day DATE)",
            "INSERT INTO days VALUES ('2026-02-03'), ('2026-02-04')",
            "CREATE TABLE daily (user_id BIGINT, day DATE, UNIQUE (user_id, day))",
        ],
        admits: &["SADD @2026-02-03 {U}", "SADD @2026-02-04 1{U}"],
        issues: &["INSERT INTO daily VALUES ({U}, '2026-02-03')", "INSERT IGNORE INTO daily VALUES (1{U}, '2026-02-04')"],
        file: "[[campaign]]
name = 'Daily'
each = \"SELECT DATE_FORMAT(day, '%Y-%m-%d'), CONCAT('Daily ', day), 30 FROM days\"
promised = { set = '@{id}' }
issued = 'SELECT user_id, day = :id FROM daily WHERE day IN (:id, :id + INTERVAL 1 DAY)'",
        loses: &["DELETE FROM daily WHERE user_id = {U}"],
        faults: &[
            fault(&["UPDATE daily SET day = '2026-02-04' WHERE user_id = {U}"], MISSING),
            fault(&["SREM @2026-02-04 {U}", "UPDATE daily SET day = '2026-02-03' WHERE user_id = {U}"], &[]),
        ],
        ..OBSERVED
    },
    System {
        name: "devFancy: ids of 16 bytes, and failed events",
        opens: &[
            "CREATE TABLE coupon (id BINARY(16) PRIMARY KEY, name VARCHAR(20), quantity INT)",
            "INSERT INTO coupon VALUES (UUID_TO_BIN('0193a1f2-7c00-7d31-8000-000000000007'), 'Winter', 30)",
            "CREATE TABLE issued (id BINARY(16) PRIMARY KEY, user_id BINARY(16), coupon_id BINARY(16), UNIQUE (user_id, coupon_id))",
            "CREATE TABLE failed (id BINARY(16) PRIMARY KEY, user_id BINARY(16), coupon_id BINARY(16), status VARCHAR(9))",
        ],
        admits: &["SADD @0193a1f2-7c00-7d31-8000-000000000007 {UUID}"],
        issues: &[
            "INSERT INTO issued SELECT UUID_TO_BIN(UUID()), UUID_TO_BIN('{UUID}'), id FROM coupon",
        ],
        file: "[[campaign]]
name = 'Coupons'
each = 'SELECT BIN_TO_UUID(id), name, quantity FROM coupon'
promised = { set = '@{id}' }
issued = 'SELECT BIN_TO_UUID(user_id) FROM issued WHERE coupon_id = UUID_TO_BIN(:id)'
failed = \"SELECT BIN_TO_UUID(id), BIN_TO_UUID(user_id) FROM failed WHERE coupon_id = UUID_TO_BIN(:id) AND status = 'READY'\"
queue = []
mode = 'repair'
resolve = \"UPDATE failed SET status = 'RESOLVED' WHERE id = UUID_TO_BIN(:failed)\"
issue = ['INSERT INTO issued VALUES (UUID_TO_BIN(UUID()), UUID_TO_BIN(:user), UUID_TO_BIN(:id))']
check = []",
        loses: &["DELETE FROM issued WHERE user_id = UUID_TO_BIN('{UUID}')"],
        faults: &[
            fault(
                &["INSERT INTO failed SELECT UUID_TO_BIN(UUID()), user_id, coupon_id, 'READY' FROM issued LIMIT 1"],
                &["1 failed_claim skipped"],
            ),
            fault(&["DELETE FROM failed"], &[]),
        ],
        ..DOWN
    },
];

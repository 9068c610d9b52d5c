//! Systems that were described from docs/ATTACH.md alone.

use crate::tickets::OBSERVED;
use crate::{Product, System, fault};

const MISSING: &[&str] = &["1 missing_admission skipped"];
const COUNT: &[&str] = &["1 count_mismatch skipped"];

pub const SYSTEMS: &[System] = &[
    System {
        name: "kangsujin2/coupon: a column that counts, a topic, keys of an hour",
        opens: &[
            "CREATE TABLE coupon (id BIGINT PRIMARY KEY, title VARCHAR(20), total_quantity INT, issued_quantity INT, date_issue_end DATETIME)",
            "INSERT INTO coupon VALUES (7, 'Winter', 30, 0, NOW() + INTERVAL 1 DAY), (6, 'Old', 30, 30, NOW() - INTERVAL 1 DAY)",
            "CREATE TABLE coupon_issue (id BIGINT AUTO_INCREMENT PRIMARY KEY, coupon_id BIGINT, user_id BIGINT, used_date DATETIME)",
        ],
        admits: &["INCR @count:7", "SADD @issue:7 {U}", "EXPIRE @issue:7 3600"],
        issues: &[
            "INSERT INTO coupon_issue (coupon_id, user_id) VALUES (7, {U})",
            "UPDATE coupon SET issued_quantity = issued_quantity + 1 WHERE id = 7",
        ],
        file: "[[campaign]]
name = 'Coupons'
each = 'SELECT id, title, total_quantity FROM coupon WHERE date_issue_end > NOW()'
promised = { set = '@issue:{id}' }
issued = 'SELECT user_id FROM coupon_issue WHERE coupon_id = :id'
count = { key = '@count:{id}', counts = 'up' }
check = ['SELECT id FROM coupon WHERE id = :id AND issued_quantity <> (SELECT COUNT(*) FROM coupon_issue WHERE coupon_id = :id)']",
        loses: &[
            "DELETE FROM coupon_issue WHERE user_id = {U}",
            "UPDATE coupon SET issued_quantity = issued_quantity - 1 WHERE id = 7",
        ],
        faults: &[
            fault(&["SREM @issue:7 {U}"], MISSING),
            fault(&["UPDATE coupon SET issued_quantity = 25 WHERE id = 7"], &["1 check skipped"]),
            fault(&["UPDATE coupon SET issued_quantity = 20 WHERE id = 7"], &[]),
        ],
        ..OBSERVED
    },
    System {
        name: "yaiiow159/high-concurrency-flash-sale: a hash of pieces, orders with lines",
        opens: &[
            "CREATE TABLE activity (id BIGINT PRIMARY KEY, name VARCHAR(20), total_stock INT)",
            "INSERT INTO activity VALUES (7, 'Flash', 30)",
            "CREATE TABLE orders (id BIGINT AUTO_INCREMENT PRIMARY KEY, user_id BIGINT, status VARCHAR(24), request_id VARCHAR(64) UNIQUE)",
            "CREATE TABLE order_line (order_id BIGINT, quantity INT, source_activity_id BIGINT)",
            "SET @{a7}:stock 30",
        ],
        admits: &["DECR @{a7}:stock", "HINCRBY @{a7}:user {U} 1"],
        issues: &[
            "INSERT INTO orders (user_id, status, request_id) VALUES ({U}, 'PENDING_PAYMENT', 'r-{U}')",
            "INSERT INTO order_line SELECT id, 1, 7 FROM orders WHERE user_id = {U}",
        ],
        file: "[[campaign]]
name = 'Activities'
each = 'SELECT id, name, total_stock FROM activity'
promised = { hash = '@{a{id}}:user', value = ['1', '2'] }
issued = \"SELECT o.user_id, l.quantity * (o.status NOT IN ('CANCELLED', 'FAILED')) FROM orders o \
            JOIN order_line l ON l.order_id = o.id WHERE l.source_activity_id = :id\"
count = { key = '@{a{id}}:stock', counts = 'down' }",
        loses: &[
            "DELETE FROM order_line WHERE order_id = (SELECT id FROM orders WHERE user_id = {U})",
            "DELETE FROM orders WHERE user_id = {U}",
        ],
        faults: &[
            fault(
                &[
                    "UPDATE orders SET status = 'CANCELLED' WHERE user_id = {U}",
                    "HINCRBY @{a7}:user {U} -1",
                    "INCR @{a7}:stock",
                ],
                &[],
            ),
            // Refused before it had an order.
            fault(&["HSET @{a7}:user 900 0"], &[]),
            fault(&["DECR @{a7}:stock"], COUNT),
        ],
        ..OBSERVED
    },
    System {
        name: "Holylaw7/seckill-engine: promises in a table, keys that expire",
        opens: &[
            "CREATE TABLE sku (sku_id BIGINT PRIMARY KEY, stock_total INT)",
            "INSERT INTO sku VALUES (7, 30)",
            "CREATE TABLE pre_deduct (user_id BIGINT, sku_id BIGINT, deduct_status VARCHAR(20) DEFAULT 'DEDUCTED')",
            "CREATE TABLE seckill_order (user_id BIGINT, sku_id BIGINT, quantity INT DEFAULT 1, order_status VARCHAR(20) DEFAULT 'WAIT_PAY')",
            "SET @stock:7 30",
        ],
        admits: &[
            "DECR @stock:7",
            "SET @user:7:{U} 1 EX 900",
            "INSERT INTO pre_deduct (user_id, sku_id) VALUES ({U}, 7)",
        ],
        issues: &["INSERT INTO seckill_order (user_id, sku_id) VALUES ({U}, 7)"],
        file: "[[campaign]]
name = 'Skus'
each = 'SELECT sku_id, sku_id, stock_total FROM sku'
promised = \"SELECT user_id FROM pre_deduct WHERE sku_id = :id AND deduct_status <> 'RECOVERED'\"
issued = \"SELECT user_id, quantity * (order_status NOT IN ('CANCEL', 'TIMEOUT', 'REFUND')) FROM seckill_order WHERE sku_id = :id\"
count = { key = '@stock:{id}', counts = 'down' }",
        loses: &["DELETE FROM seckill_order WHERE user_id = {U}"],
        faults: &[
            fault(
                &[
                    "UPDATE seckill_order SET order_status = 'TIMEOUT' WHERE user_id = {U}",
                    "UPDATE pre_deduct SET deduct_status = 'RECOVERED' WHERE user_id = {U}",
                    "INCR @stock:7",
                ],
                &[],
            ),
            fault(&["INCR @stock:7"], COUNT),
        ],
        ..OBSERVED
    },
    System {
        name: "FCFS-TEAM25/limited-service: keys that expire before the rows, so a number",
        product: Product::Postgres,
        opens: &[
            "CREATE TABLE limited_event_user (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), user_id BIGINT, limited_event_id UUID)",
            "SET @quantity 30",
        ],
        admits: &["DECR @quantity", "SET @purchase:{U} PENDING EX 900", "RPUSH @success {U}"],
        issues: &["INSERT INTO limited_event_user (user_id) VALUES ({U})", "LPOP @success"],
        file: "[[campaign]]
name = 'Limited'
quantity = 30
issued = 'SELECT user_id FROM limited_event_user'
count = { key = '@quantity', counts = 'down' }
queue = [{ list = '@success' }]",
        loses: &["DELETE FROM limited_event_user WHERE user_id = {U}"],
        named: COUNT,
        faults: &[fault(&["INCR @quantity"], COUNT)],
        ..OBSERVED
    },
    System {
        name: "tidi-dev/high-concurrency-flash-sale: a key a user, reservations that end, a waiting list",
        product: Product::Postgres,
        opens: &[
            "CREATE TYPE status AS ENUM ('RESERVED', 'PAID', 'EXPIRED', 'REJECTED')",
            "CREATE TABLE \"Product\" (id TEXT PRIMARY KEY, name TEXT, \"initialStock\" INT)",
            "INSERT INTO \"Product\" VALUES ('shoe', 'Shoe', 30)",
            "CREATE TABLE \"Reservation\" (id TEXT PRIMARY KEY, \"productId\" TEXT REFERENCES \"Product\", \"userId\" TEXT, status status)",
            "SET @{shoe}:stock 30",
        ],
        admits: &["DECR @{shoe}:stock", "SET @{shoe}:user:u{U} r-{U}", "ZADD @{shoe}:pending 1 r-{U}"],
        issues: &[
            "INSERT INTO \"Reservation\" VALUES ('r-{U}', 'shoe', 'u{U}', 'RESERVED')",
            "ZREM @{shoe}:pending r-{U}",
        ],
        file: "[[campaign]]
name = 'Products'
each = 'SELECT id, name, \"initialStock\" FROM \"Product\"'
promised = { keys = '@{{id}}:user:{user}' }
issued = '''SELECT \"userId\", status IN ('RESERVED', 'PAID') FROM \"Reservation\" WHERE \"productId\" = :id'''
count = { key = '@{{id}}:stock', counts = 'down' }
queue = [{ sorted_set = '@{{id}}:pending' }]",
        loses: &["DELETE FROM \"Reservation\" WHERE \"userId\" = 'u{U}'"],
        faults: &[
            // It ends, and the first of the waiting list gets the seat.
            fault(
                &[
                    "UPDATE \"Reservation\" SET status = 'EXPIRED' WHERE \"userId\" = 'u{U}'",
                    "DEL @{shoe}:user:u{U}",
                    "SET @{shoe}:user:u900 r-900",
                    "INSERT INTO \"Reservation\" VALUES ('r-900', 'shoe', 'u900', 'RESERVED')",
                ],
                &[],
            ),
            fault(&["INCR @{shoe}:stock"], COUNT),
        ],
        ..OBSERVED
    },
];

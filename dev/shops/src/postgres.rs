//! Systems on PostgreSQL.

use crate::published::DOWN;
use crate::tickets::OBSERVED;
use crate::{Product, Repair, System, fault};

const SERIAL: &str =
    "CREATE TABLE coupon (id BIGSERIAL PRIMARY KEY, user_id BIGINT NOT NULL UNIQUE)";

const POSTGRES: System = System {
    product: Product::Postgres,
    opens: &[SERIAL, "SET @stock 30"],
    ..DOWN
};

const MISSING: &[&str] = &["1 missing_admission skipped"];

pub const SYSTEMS: &[System] = &[
    System {
        name: "weiting1229/seckill-ticketing: counts down, a set",
        ..POSTGRES
    },
    System {
        name: "seckill-go: ids of 16 bytes, a campaign a row",
        opens: &[
            "CREATE TABLE activity (id UUID PRIMARY KEY, title TEXT, stock INT)",
            "INSERT INTO activity VALUES ('0193a1f2-7c00-7d31-8000-000000000007', 'Flash', 30)",
            "CREATE TABLE orders (user_id UUID, activity_id UUID REFERENCES activity, UNIQUE (user_id, activity_id))",
        ],
        admits: &["SADD @0193a1f2-7c00-7d31-8000-000000000007 {UUID}"],
        issues: &["INSERT INTO orders SELECT '{UUID}', id FROM activity"],
        file: "[[campaign]]
name = 'Activities'
each = 'SELECT id, title, stock FROM activity'
promised = { set = '@{id}' }
issued = 'SELECT user_id FROM orders WHERE activity_id = :id'
queue = []
mode = 'repair'
issue = ['INSERT INTO orders VALUES (:user, :id)']
check = []",
        loses: &["DELETE FROM orders WHERE user_id = '{UUID}'"],
        faults: &[],
        ..POSTGRES
    },
    System {
        name: "nestjs-high-concurrency-flash-sale: columns in camel case, rows that count no more",
        opens: &[
            "CREATE TABLE purchase (id SERIAL PRIMARY KEY, \"userId\" INT NOT NULL, status TEXT NOT NULL DEFAULT 'PAID')",
            "CREATE UNIQUE INDEX live ON purchase (\"userId\") WHERE status <> 'CANCELLED'",
        ],
        admits: &["SADD @users {U}"],
        issues: &["INSERT INTO purchase (\"userId\") VALUES ({U})"],
        file: "[[campaign]]
name = 'Sale'
quantity = 30
promised = { set = '@users' }
issued = '''SELECT \"userId\", (status <> 'CANCELLED')::int FROM purchase'''
queue = []
mode = 'repair'
issue = ['INSERT INTO purchase (\"userId\") VALUES (:user)']
check = []",
        loses: &["DELETE FROM purchase WHERE \"userId\" = {U}"],
        faults: &[
            fault(&["UPDATE purchase SET status = 'CANCELLED' WHERE \"userId\" = {U}"], &[]),
            fault(&["SREM @users 6"], MISSING),
        ],
        ..POSTGRES
    },
    System {
        name: "flash-sale-lab: two statements, and a column that counts",
        opens: &[
            "CREATE TABLE product (id INT PRIMARY KEY, total INT, sold INT)",
            "INSERT INTO product VALUES (7, 30, 0)",
            SERIAL,
        ],
        admits: &["SADD @users {U}"],
        issues: &["INSERT INTO coupon (user_id) VALUES ({U})", "UPDATE product SET sold = sold + 1"],
        file: "[[campaign]]
name = 'Product'
quantity = 30
promised = { set = '@users' }
issued = 'SELECT user_id FROM coupon'
queue = []
mode = 'repair'
issue = ['INSERT INTO coupon (user_id) VALUES (:user)', 'UPDATE product SET sold = sold + 1 WHERE sold < total']
check = ['SELECT id FROM product WHERE sold <> (SELECT COUNT(*) FROM coupon)']",
        loses: &["DELETE FROM coupon WHERE user_id = {U}", "UPDATE product SET sold = sold - 1"],
        faults: &[
            fault(&["UPDATE product SET sold = sold + 1"], &["1 check skipped"]),
            fault(&["UPDATE product SET sold = sold - 1"], &[]),
        ],
        ..POSTGRES
    },
    System {
        name: "ivyticketing: seats in a bitfield, compared as a number",
        admits: &["DECR @stock", "SETBIT @seats {U} 1"],
        file: "[[campaign]]
name = 'Seats'
quantity = 30
issued = 'SELECT user_id FROM coupon'
count = { key = '@stock', counts = 'down' }",
        named: &["1 count_mismatch skipped"],
        repair: Repair::Observes,
        faults: &[],
        ..POSTGRES
    },
    System {
        product: Product::Postgres,
        name: "ticketing_system: a waiting room, and a check of the seats",
        opens: &[
            "CREATE TABLE seat (id INT PRIMARY KEY, user_id BIGINT, status TEXT)",
            "CREATE TABLE booking (user_id BIGINT, seat_id INT)",
        ],
        admits: &["INSERT INTO seat VALUES ({U}, {U}, 'SOLD')"],
        issues: &["INSERT INTO booking VALUES ({U}, {U})"],
        file: "[[check]]
name = 'a seat that is sold has its booking'
sql = \"SELECT id FROM seat s WHERE status = 'SOLD' AND NOT EXISTS (SELECT 1 FROM booking WHERE seat_id = s.id)\"
to_do = 'Book it, or give the seat back.'",
        loses: &["DELETE FROM booking WHERE user_id = {U}"],
        named: &["1 check skipped"],
        faults: &[],
        ..OBSERVED
    },
];

//! 21 coupon systems as published projects build them, each rebuilt from its description.

use crate::{Product, Repair, System, fault};

pub const COUPON: &str =
    "CREATE TABLE coupon (id BIGINT AUTO_INCREMENT PRIMARY KEY, user_id BIGINT NOT NULL UNIQUE)";

/// A campaign over [`COUPON`], whose row the API writes.
macro_rules! repaired {
    ($promised:literal, $count:literal) => {
        concat!(
            "[[campaign]]\nname = 'Coupon'\nquantity = 30\npromised = ",
            $promised,
            "\nissued = 'SELECT user_id FROM coupon'\ncount = ",
            $count,
            "\nqueue = []\nmode = 'repair'\nissue = ['INSERT INTO coupon (user_id) VALUES (:user)']\ncheck = []"
        )
    };
}

/// A campaign that nothing but a counter describes.
macro_rules! counted {
    ($count:literal) => {
        concat!(
            "[[campaign]]\nname = 'Coupon'\nquantity = 30\nissued = 'SELECT user_id FROM coupon'\ncount = ",
            $count
        )
    };
}

const MISSING: &[&str] = &["1 missing_admission skipped"];
const COUNT: &[&str] = &["1 count_mismatch skipped"];

/// A string that counts down, beside a set.
pub const DOWN: System = System {
    name: "",
    product: Product::Mysql,
    opens: &[COUPON, "SET @stock 30"],
    admits: &["DECR @stock", "SADD @users {U}"],
    issues: &["INSERT INTO coupon (user_id) VALUES ({U})"],
    file: repaired!("{ set = '@users' }", "{ key = '@stock', counts = 'down' }"),
    loses: &["DELETE FROM coupon WHERE user_id = {U}"],
    named: &["1 unissued planned"],
    repair: Repair::Unasked,
    faults: &[
        fault(&["SREM @users {U}"], MISSING),
        fault(&["INCR @stock"], COUNT),
    ],
};

const UP: System = System {
    opens: &[COUPON],
    admits: &["INCR @count", "SADD @users {U}"],
    file: repaired!("{ set = '@users' }", "{ key = '@count', counts = 'up' }"),
    faults: &[
        fault(&["SREM @users {U}"], MISSING),
        fault(&["DECR @count"], COUNT),
    ],
    ..DOWN
};

/// Nothing names users: a lost row is a number.
const NUMBER: System = System {
    opens: &[COUPON],
    admits: &["INCR @count"],
    file: counted!("{ key = '@count', counts = 'up' }"),
    named: COUNT,
    repair: Repair::Observes,
    faults: &[fault(&["DECR @count"], COUNT)],
    ..DOWN
};

/// One key a user, which cannot be counted again.
const KEYS: System = System {
    admits: &["DECR @stock", "SET @issued:{U} 1 EX 3600"],
    file: repaired!(
        "{ keys = '@issued:{user}' }",
        "{ key = '@stock', counts = 'down' }"
    ),
    repair: Repair::Asks,
    faults: &[
        fault(&["DEL @issued:{U}"], MISSING),
        fault(&["SET @issued:{U} 1"], &[]),
    ],
    ..DOWN
};

pub const SYSTEMS: &[System] = &[
    System {
        name: "Dev-sungmin/coupon-lab: counts up, never past the quantity, no key of users",
        ..NUMBER
    },
    System {
        name: "Soundbar91/coupon-system: counts up, a set",
        ..UP
    },
    System {
        name: "youngmin0628/port_1: INCR, and DECR past the end",
        admits: &["INCR @count", "INCR @count", "DECR @count", "SADD @users {U}"],
        ..UP
    },
    System {
        name: "wonzzu/ticketon: counts down, a set",
        ..DOWN
    },
    System {
        name: "nmin11/hhplus-e-commerce: counts down, rows of several coupons",
        opens: &[
            "CREATE TABLE coupon (id INT PRIMARY KEY, name VARCHAR(20), quantity INT, is_open INT)",
            "INSERT INTO coupon VALUES (7, 'Winter', 30, 1), (8, 'Spring', 5, 0)",
            "CREATE TABLE user_coupon (id BIGINT AUTO_INCREMENT PRIMARY KEY, user_id BIGINT NOT NULL, \
            coupon_id INT NOT NULL, status VARCHAR(20) NOT NULL DEFAULT 'ISSUED', UNIQUE (coupon_id, user_id))",
            "INSERT INTO user_coupon (user_id, coupon_id) VALUES (3, 8)",
            "SET @stock:7 30",
        ],
        admits: &["DECR @stock:7", "SADD @users:7 {U}"],
        issues: &["INSERT INTO user_coupon (user_id, coupon_id) VALUES ({U}, 7)"],
        file: "[[campaign]]
name = 'Coupons'
each = 'SELECT id, name, quantity FROM coupon WHERE is_open = 1'
promised = { set = '@users:{id}' }
issued = 'SELECT user_id FROM user_coupon WHERE coupon_id = :id'
count = { key = '@stock:{id}', counts = 'down' }
queue = []
mode = 'repair'
issue = ['INSERT INTO user_coupon (user_id, coupon_id) VALUES (:user, :id)']
check = []",
        loses: &["DELETE FROM user_coupon WHERE user_id = {U} AND coupon_id = 7"],
        faults: &[fault(&["SREM @users:7 {U}"], MISSING), fault(&["INCR @stock:7"], COUNT)],
        ..DOWN
    },
    System {
        name: "catchtable-clone/backend: a counter that is missing means not open",
        faults: &[fault(&["DEL @stock"], COUNT), fault(&["SET @stock 9"], &[])],
        ..DOWN
    },
    System {
        name: "Get-bot/spring-event-lab: the stock is read before the set",
        admits: &["GET @stock", "DECR @stock", "SADD @users {U}"],
        ..DOWN
    },
    System {
        name: "MO-COU/load-test: DECR, and INCR past the end",
        admits: &["DECR @stock", "DECR @stock", "INCR @stock", "SADD @users {U}"],
        ..DOWN
    },
    System {
        name: "nhnacademy-be12-high-five/coupon_server: counts down, a set",
        ..DOWN
    },
    System {
        name: "ssngza/coupon-issue-java-kafka: a status key a user, and a queue never seen filled",
        admits: &["DECR @stock", "SADD @users {U}", "SET @status:{U} ISSUED EX 3600"],
        file: "[[campaign]]
name = 'Coupon'
quantity = 30
promised = { set = '@users' }
issued = 'SELECT user_id FROM coupon'
count = { key = '@stock', counts = 'down' }
queue = [{ list = '@queue' }]
mode = 'repair'
issue = ['INSERT INTO coupon (user_id) VALUES (:user)']
check = []",
        repair: Repair::Asks,
        ..DOWN
    },
    System {
        name: "zziminking/h99_ecommerce: a hash a user, of one day",
        admits: &["DECR @stock", "SADD @users {U}", "HSET @of:{U} 7 issued"],
        ..DOWN
    },
    System {
        name: "choiseongho1/coupon-test: a set that expires after the last winner",
        admits: &["DECR @stock", "SADD @users {U}", "EXPIRE @users 2592000"],
        ..DOWN
    },
    System {
        name: "PetCare-Platform/petcoupon-backend: a hash of request ids, codes and places in rows",
        opens: &[
            "CREATE TABLE coupon (id BIGINT AUTO_INCREMENT PRIMARY KEY, user_id BIGINT NOT NULL UNIQUE, \
            sequence_no INT NOT NULL UNIQUE, code CHAR(32) NOT NULL UNIQUE)",
            "SET @stock 30",
        ],
        admits: &["DECR @stock", "HSET @users {U} request-{U}"],
        issues: &[
            "INSERT INTO coupon (user_id, sequence_no, code) VALUES ({U}, {U}, REPLACE(UUID(), '-', ''))",
        ],
        file: "[[campaign]]
name = 'Coupon'
quantity = 30
promised = { hash = '@users', value = '*' }
issued = 'SELECT user_id FROM coupon'
count = { key = '@stock', counts = 'down' }
queue = []
mode = 'repair'
issue = [\"INSERT INTO coupon (user_id, sequence_no, code) SELECT :user, MAX(sequence_no) + 1, REPLACE(UUID(), '-', '') FROM coupon\"]
check = []",
        faults: &[fault(&["INCR @stock"], COUNT)],
        ..DOWN
    },
    System {
        name: "eeoos/airbob: the field `stock` of a hash",
        opens: &[COUPON, "HSET @coupon stock 30 active 1 unlimited 0"],
        admits: &["HINCRBY @coupon stock -1", "SADD @users {U}"],
        file: repaired!(
            "{ set = '@users' }",
            "{ key = '@coupon', field = 'stock', counts = 'down' }"
        ),
        faults: &[fault(&["HINCRBY @coupon stock 1"], COUNT)],
        ..DOWN
    },
    System {
        name: "kk787016/coupon-fcfs-service: a hash of the stock of all coupons",
        opens: &[COUPON, "HSET @stocks 7 30 8 500"],
        admits: &["HINCRBY @stocks 7 -1", "SADD @users {U}", "HSET @places {U} {U}"],
        file: repaired!(
            "{ set = '@users' }",
            "{ key = '@stocks', field = '7', counts = 'down' }"
        ),
        faults: &[fault(&["HINCRBY @stocks 7 1"], COUNT)],
        ..DOWN
    },
    System {
        name: "U-Ply/backend: one set of users for several stocks",
        opens: &[
            "CREATE TABLE stock (id INT PRIMARY KEY, total INT)",
            "INSERT INTO stock VALUES (1, 25), (2, 15)",
            "CREATE TABLE coupon (id BIGINT AUTO_INCREMENT PRIMARY KEY, stock_id INT, user_id BIGINT UNIQUE, \
            status VARCHAR(9))",
            "MSET @stock:1 25 @stock:2 15",
        ],
        admits: &["SADD @users {U}", "DECR @stock:1"],
        issues: &["INSERT INTO coupon (stock_id, user_id, status) VALUES (1, {U}, 'USED')"],
        file: "[[campaign]]
name = 'Users'
quantity = 40
promised = { set = '@users' }
issued = 'SELECT user_id FROM coupon'
[[campaign]]
name = 'Stocks'
each = 'SELECT id, id, total FROM stock'
issued = 'SELECT user_id FROM coupon WHERE stock_id = :id'
count = { key = '@stock:{id}', counts = 'down' }",
        named: &["1 count_mismatch skipped", "1 unissued skipped"],
        repair: Repair::Observes,
        faults: &[fault(&["SREM @users {U}"], MISSING), fault(&["DECR @stock:2"], COUNT)],
        ..DOWN
    },
    System {
        name: "bumjpark/Ureca_final_project_02: a sorted set of reserved, then a set of issued",
        admits: &["DECR @stock", "ZADD @reserved {U} {U}"],
        issues: &[
            "INSERT INTO coupon (user_id) VALUES ({U})",
            "ZREM @reserved {U}",
            "SADD @issued {U}",
        ],
        file: repaired!(
            "[{ sorted_set = '@reserved' }, { set = '@issued' }]",
            "{ key = '@stock', counts = 'down' }"
        ),
        faults: &[fault(&["SREM @issued {U}"], MISSING), fault(&["SADD @issued {U}"], &[])],
        ..DOWN
    },
    System {
        name: "URECA-Ace/Ace_BE: counts down, a bitmap in segments, a hash of requests",
        opens: &[COUPON, "SET @stock 30"],
        admits: &["DECR @stock", "SETBIT @bits:0 {U} 1", "HSET @requests r-{U} {U}"],
        file: counted!("{ key = '@stock', counts = 'down' }"),
        faults: &[fault(&["INCR @stock"], COUNT)],
        ..NUMBER
    },
    System {
        name: "dlghddud/Ecommerce: counts down, a key a user",
        ..KEYS
    },
    System {
        name: "junsugi/redis-coupon-system: counts up, a key a user, a stream of what was issued",
        opens: &[COUPON],
        admits: &["INCR @count", "SET @issued:{U} 1 EX 3600", "XADD @stream * user {U}"],
        file: repaired!("{ keys = '@issued:{user}' }", "{ key = '@count', counts = 'up' }"),
        ..KEYS
    },
    System {
        name: "shimsihim/commerce: the field of a hash, a set of issues a user, several a user",
        opens: &["CREATE TABLE coupon (id BIGINT AUTO_INCREMENT PRIMARY KEY, user_id BIGINT)"],
        admits: &["HINCRBY @coupon issued 1", "SADD @issues:{U} request-{U}"],
        file: counted!("{ key = '@coupon', field = 'issued', counts = 'up' }"),
        faults: &[fault(&["HINCRBY @coupon issued -1"], COUNT)],
        ..NUMBER
    },
];

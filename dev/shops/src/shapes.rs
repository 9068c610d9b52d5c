//! Ways to write users, rows and failures that published systems use besides.

use crate::published::{COUPON, DOWN};
use crate::tickets::OBSERVED;
use crate::{Repair, System, fault};

const MISSING: &[&str] = &["1 missing_admission skipped"];

pub const SYSTEMS: &[System] = &[
    System {
        name: "members as a RedisTemplate without serializer writes them",
        opens: &["CREATE TABLE coupon (user_id CHAR(36) PRIMARY KEY)"],
        admits: &[
            r"EVAL return(redis.call('SADD',KEYS[1],'\172\237\0\5t\0$'..ARGV[1])) 1 @users {UUID}",
        ],
        issues: &["INSERT INTO coupon VALUES ('{UUID}')"],
        file: "[[campaign]]
name = 'Java'
quantity = 30
promised = { set = '@users', form = 'java', key_form = 'plain' }
issued = 'SELECT user_id FROM coupon'
queue = []
mode = 'repair'
issue = ['INSERT INTO coupon VALUES (:user)']
check = []",
        loses: &["DELETE FROM coupon WHERE user_id = '{UUID}'"],
        faults: &[],
        ..DOWN
    },
    System {
        name: "members in quotes",
        admits: &["DECR @stock", "SADD @users \"{U}\""],
        file: "[[campaign]]
name = 'Quotes'
quantity = 30
promised = { set = '@users', form = 'json' }
issued = 'SELECT user_id FROM coupon'
count = { key = '@stock', counts = 'down' }",
        faults: &[
            fault(&["SREM @users \"{U}\""], MISSING),
            fault(&["SADD @users \"{U}\""], &[]),
        ],
        ..OBSERVED
    },
    System {
        name: "a text around each user, and a placeholder",
        opens: &[COUPON, "SADD @users init"],
        admits: &["SADD @users user:{U}"],
        file: "[[campaign]]
name = 'Prefix'
quantity = 30
promised = { set = '@users', member = 'user:{user}', except = ['init'] }
issued = 'SELECT user_id FROM coupon'",
        faults: &[fault(&["SREM @users user:{U}"], MISSING)],
        ..OBSERVED
    },
    System {
        name: "a sorted set of times",
        admits: &["ZADD @users 17000{U} {U}"],
        file: "[[campaign]]
name = 'Times'
quantity = 30
promised = { sorted_set = '@users' }
issued = 'SELECT user_id FROM coupon'",
        faults: &[
            fault(&["ZREM @users {U}"], MISSING),
            fault(&["ZADD @users 1 {U}"], &[]),
        ],
        ..OBSERVED
    },
    System {
        name: "four shards of a set",
        admits: &["EVAL return(redis.call('SADD',KEYS[1]..ARGV[1]%4,ARGV[1])) 1 @users {U}"],
        file: "[[campaign]]
name = 'Shards'
quantity = 30
promised = [{ set = '@users0' }, { set = '@users1' }, { set = '@users2' }, { set = '@users3' }]
issued = 'SELECT user_id FROM coupon'",
        faults: &[
            fault(&["SREM @users1 {U}"], MISSING),
            fault(&["SADD @users1 {U}"], &[]),
        ],
        ..OBSERVED
    },
    System {
        name: "a view, reserved and Korean names, a hash tag in the key",
        opens: &[
            "CREATE TABLE `쿠폰` (`group` INT, `사용자` BIGINT, UNIQUE (`group`, `사용자`))",
            "CREATE VIEW `order` AS SELECT * FROM `쿠폰`",
        ],
        admits: &["SADD {@7}:users {U}"],
        issues: &["INSERT INTO `쿠폰` VALUES (7, {U})"],
        file: "[[campaign]]
name = '겨울'
quantity = 30
promised = { set = '{@7}:users' }
issued = 'SELECT `사용자` FROM `order` WHERE `group` = 7'
queue = []
mode = 'repair'
issue = ['INSERT INTO `쿠폰` VALUES (7, :user)']
check = []",
        loses: &["DELETE FROM `쿠폰` WHERE `사용자` = {U}"],
        faults: &[fault(&["SREM {@7}:users {U}"], MISSING)],
        ..DOWN
    },
    System {
        name: "rows that refer to users, with columns that have no default",
        opens: &[
            "CREATE TABLE user (id BIGINT PRIMARY KEY)",
            "CREATE TABLE coupon (user_id BIGINT UNIQUE, code CHAR(16) NOT NULL, FOREIGN KEY (user_id) REFERENCES user (id))",
            "SET @stock 30",
        ],
        admits: &[
            "DECR @stock",
            "SADD @users {U}",
            "INSERT INTO user VALUES ({U})",
        ],
        issues: &["INSERT INTO coupon VALUES ({U}, LEFT(UUID(), 16))"],
        file: "[[campaign]]
name = 'Codes'
quantity = 30
promised = { set = '@users' }
issued = 'SELECT user_id FROM coupon'
count = { key = '@stock', counts = 'down' }
queue = []
mode = 'repair'
issue = ['INSERT INTO coupon VALUES (:user, LEFT(UUID(), 16))']
check = []",
        ..DOWN
    },
    System {
        name: "coupons that are deleted by a time, without a key that refuses a second row",
        opens: &["CREATE TABLE coupon (user_id BIGINT, deleted_at DATETIME)"],
        admits: &["SADD @users {U}"],
        file: "[[campaign]]
name = 'Deleted'
quantity = 30
promised = { set = '@users' }
issued = 'SELECT user_id, deleted_at IS NULL FROM coupon'
queue = []
mode = 'repair'
issue = ['INSERT INTO coupon (user_id) VALUES (:user)']
check = []",
        repair: Repair::Asks,
        faults: &[fault(
            &["UPDATE coupon SET deleted_at = NOW() WHERE user_id = {U}"],
            &[],
        )],
        ..DOWN
    },
    System {
        name: "ids above 2^63",
        opens: &["CREATE TABLE coupon (user_id BIGINT UNSIGNED UNIQUE)"],
        admits: &["SADD @users 99999999999999999{U}"],
        issues: &["INSERT INTO coupon VALUES (99999999999999999{U})"],
        file: "[[campaign]]
name = 'Large'
quantity = 30
promised = { set = '@users', form = 'json' }
issued = 'SELECT user_id FROM coupon'
queue = []
mode = 'repair'
issue = ['INSERT INTO coupon VALUES (:user)']
check = []",
        loses: &["DELETE FROM coupon WHERE user_id = 99999999999999999{U}"],
        faults: &[fault(&["SREM @users 99999999999999999{U}"], MISSING)],
        ..DOWN
    },
    System {
        name: "a quantity that is raised while the coupons are sold",
        opens: &[
            COUPON,
            "CREATE TABLE event (id INT, name VARCHAR(9), quantity INT)",
            "INSERT INTO event VALUES (7, 'Winter', 21)",
        ],
        admits: &["SADD @users:7 {U}"],
        file: "[[campaign]]
name = 'Raised'
each = 'SELECT id, name, quantity FROM event'
promised = { set = '@users:{id}' }
issued = 'SELECT user_id FROM coupon WHERE :id = 7'
queue = []
mode = 'repair'
issue = ['INSERT INTO coupon (user_id) SELECT :user FROM event WHERE id = :id']
check = []",
        faults: &[
            fault(&["SADD @users:7 50"], &["1 over_admitted skipped"]),
            fault(&["UPDATE event SET quantity = 22"], &["1 unissued planned"]),
            fault(&["INSERT INTO coupon (user_id) VALUES (50)"], &[]),
        ],
        ..DOWN
    },
];

//! Coupon systems as published projects build them, each rebuilt from its description: how it
//! counts, which keys name its users, what its table needs. Each is described by a file, is clean
//! at first, loses a count and, if a key names its users, a row and a member, and is repaired to
//! its former state.

use anyhow::ensure;
use firstcome_attach::Attached;
use firstcome_shared::mysql::held_back::Asked;

use crate::world::{World, campaign, confirm, pass, pass_over, told};

const QUANTITY: u32 = 20;
const ASKED: u32 = 30;
/// The user whose row is lost, and the one who is missing in Redis.
const LOST: [u32; 2] = [3, 5];

/// A system. In its commands, `{U}` is the user and `{N}` the place.
struct System {
    name: &'static str,
    table: &'static str,
    row: &'static str,
    /// The Redis commands that its programs run before the sale, for each winner, and for each
    /// loser.
    open: &'static [&'static str],
    winner: &'static [&'static str],
    loser: &'static [&'static str],
    /// The commands that break something besides a row.
    fault: &'static [&'static str],
    /// A key names the users who were promised a coupon. Otherwise a lost row is only a number.
    names_users: bool,
    /// The commands that read the state to compare.
    state: &'static [&'static str],
    /// The campaign of the file, without name, mode, `in_flight` and quantity.
    campaign: &'static str,
}

/// A string that counts down, beside a set.
const DOWN: System = System {
    name: "",
    table: "CREATE TABLE coupon (id BIGINT AUTO_INCREMENT PRIMARY KEY, user_id BIGINT NOT NULL UNIQUE)",
    row: "INSERT INTO coupon (user_id) VALUES ({U})",
    open: &["SET @stock 20"],
    winner: &["DECR @stock", "SADD @users {U}"],
    loser: &[],
    fault: &["SREM @users 5", "INCR @stock"],
    names_users: true,
    state: &["SMEMBERS @users", "GET @stock"],
    campaign: "users = { key = '@users', type = 'set' }
        count = { key = '@stock', means = 'left' }
        rows = { table = 'coupon', user = 'user_id' }",
};

/// A string that counts up, beside a set.
const UP: System = System {
    open: &[],
    winner: &["INCR @count", "SADD @users {U}"],
    fault: &["SREM @users 5", "DECR @count"],
    state: &["SMEMBERS @users", "GET @count"],
    campaign: "users = { key = '@users', type = 'set' }
        count = { key = '@count', means = 'issued' }
        rows = { table = 'coupon', user = 'user_id' }",
    ..DOWN
};

/// A string that counts up, and nothing that names its users.
const NUMBER: System = System {
    fault: &["DECR @count"],
    names_users: false,
    state: &["GET @count"],
    campaign: "count = { key = '@count', means = 'issued' }
        rows = { table = 'coupon', user = 'user_id' }",
    ..UP
};

const SYSTEMS: &[System] = &[
    System {
        name: "Dev-sungmin/coupon-lab: counts up, never past the quantity, no key of users",
        winner: &["INCR @count"],
        ..NUMBER
    },
    System {
        name: "junsugi/redis-coupon-system: counts up, a key a user, a stream of what was issued",
        winner: &[
            "INCR @count",
            "SET @issued:{U} 1 EX 3600",
            "XADD @issued * user {U}",
        ],
        ..NUMBER
    },
    System {
        name: "Soundbar91/coupon-system: counts up, a set",
        ..UP
    },
    System {
        name: "youngmin0628/port_1: INCR, and DECR past the end",
        loser: &["INCR @count", "DECR @count"],
        ..UP
    },
    System {
        name: "wonzzu/ticketon: counts down, a set",
        ..DOWN
    },
    System {
        name: "nmin11/hhplus-e-commerce: counts down, rows of several coupons",
        table: "CREATE TABLE user_coupon (id BIGINT AUTO_INCREMENT PRIMARY KEY, user_id BIGINT NOT NULL, \
            coupon_id BIGINT NOT NULL, status VARCHAR(20) NOT NULL DEFAULT 'ISSUED', UNIQUE (coupon_id, user_id))",
        row: "INSERT INTO user_coupon (user_id, coupon_id) VALUES ({U}, 7)",
        campaign: "users = { key = '@users', type = 'set' }
            count = { key = '@stock', means = 'left' }
            rows = { table = 'user_coupon', user = 'user_id', where = { coupon_id = 7 } }",
        ..DOWN
    },
    System {
        name: "catchtable-clone/backend: a counter that is missing means not open",
        fault: &["SREM @users 5", "DEL @stock"],
        ..DOWN
    },
    System {
        name: "Get-bot/spring-event-lab: the stock is read before the set",
        loser: &["GET @stock"],
        ..DOWN
    },
    System {
        name: "MO-COU/load-test: DECR, and INCR past the end",
        loser: &["DECR @stock", "INCR @stock"],
        ..DOWN
    },
    System {
        name: "nhnacademy-be12-high-five/coupon_server: counts down, a set",
        ..DOWN
    },
    System {
        name: "ssngza/coupon-issue-java-kafka: a status key a user, a queue",
        winner: &[
            "DECR @stock",
            "SADD @users {U}",
            "SET @status:{U} ISSUED EX 3600",
        ],
        campaign: "users = { key = '@users', type = 'set' }
            count = { key = '@stock', means = 'left' }
            rows = { table = 'coupon', user = 'user_id' }
            queue = { list = '@queue' }",
        ..DOWN
    },
    System {
        name: "zziminking/h99_ecommerce: a hash a user",
        winner: &["DECR @stock", "SADD @users {U}", "HSET @of:{U} 7 issued"],
        ..DOWN
    },
    System {
        name: "choiseongho1/coupon-test: a set that expires after the last winner",
        winner: &["DECR @stock", "SADD @users {U}", "EXPIRE @users 2592000"],
        ..DOWN
    },
    System {
        name: "PetCare-Platform/petcoupon-backend: a hash of request ids, codes made by the program",
        table: "CREATE TABLE coupon (id BIGINT AUTO_INCREMENT PRIMARY KEY, user_id BIGINT NOT NULL UNIQUE, \
            sequence_no INT NOT NULL DEFAULT 0, code CHAR(32) NOT NULL UNIQUE)",
        row: "INSERT INTO coupon (user_id, sequence_no, code) VALUES ({U}, {N}, REPLACE(UUID(), '-', ''))",
        winner: &["DECR @stock", "HSET @users {U} request-{U}"],
        fault: &["HDEL @users 5", "INCR @stock"],
        state: &["HKEYS @users", "GET @stock"],
        campaign: "users = { key = '@users', type = 'hash', value = 'repaired' }
            count = { key = '@stock', means = 'left' }
            rows = { table = 'coupon', user = 'user_id', insert = { code = '{random:32}' } }",
        ..DOWN
    },
    System {
        name: "eeoos/airbob: the field `stock` of a hash",
        open: &["HSET @coupon stock 20 active 1 unlimited 0"],
        winner: &["HINCRBY @coupon stock -1", "SADD @users {U}"],
        fault: &["SREM @users 5", "HINCRBY @coupon stock 1"],
        state: &["SMEMBERS @users", "HGETALL @coupon"],
        campaign: "users = { key = '@users', type = 'set' }
            count = { key = '@coupon', field = 'stock', means = 'left' }
            rows = { table = 'coupon', user = 'user_id' }",
        ..DOWN
    },
    System {
        name: "kk787016/coupon-fcfs-service: a hash of the stock of all coupons",
        open: &["HSET @stocks 7 20 8 500"],
        winner: &[
            "HINCRBY @stocks 7 -1",
            "SADD @users {U}",
            "HSET @places {N} {U}",
        ],
        fault: &["SREM @users 5", "HINCRBY @stocks 7 1"],
        state: &["SMEMBERS @users", "HGETALL @stocks", "HGETALL @places"],
        campaign: "users = { key = '@users', type = 'set' }
            count = { key = '@stocks', field = '7', means = 'left' }
            rows = { table = 'coupon', user = 'user_id' }",
        ..DOWN
    },
    System {
        name: "seckill.lua: counts down, a set, a stream",
        open: &["SET @stock 20", "XGROUP CREATE @orders g1 0 MKSTREAM"],
        campaign: "users = { key = '@users', type = 'set' }
            count = { key = '@stock', means = 'left' }
            rows = { table = 'coupon', user = 'user_id' }
            queue = { stream = '@orders', group = 'g1' }",
        ..DOWN
    },
];

fn filled(text: &str, user: u32) -> String {
    let user = user.to_string();
    text.replace("{U}", &user).replace("{N}", &user)
}

fn text(value: redis::Value) -> String {
    redis::from_redis_value(value).unwrap()
}

impl System {
    fn table_name(&self) -> &str {
        self.table.split(' ').nth(2).unwrap()
    }

    async fn run(&self, world: &World, commands: &[&str], user: u32) {
        for command in commands {
            let _reply: redis::Value = world.redis(&filled(command, user)).await;
        }
    }

    /// Runs a sale, and describes the system.
    async fn open(&self, world: &World) -> Attached {
        world.wipe().await;
        world
            .sql(&format!("DROP TABLE IF EXISTS {}", self.table_name()))
            .await;
        world.sql(self.table).await;
        self.run(world, self.open, 0).await;
        for user in 1..=QUANTITY {
            self.run(world, self.winner, user).await;
            world.sql(&filled(self.row, user)).await;
        }
        for user in QUANTITY + 1..=ASKED {
            self.run(world, self.loser, user).await;
        }
        let lines = self.campaign.lines().count();
        // Two more lines belong to the file, and four to the campaign.
        assert!(lines + 6 <= 12, "{}: {lines} lines", self.name);
        let settings = format!("quantity = {QUANTITY}\n{}", self.campaign);
        world.attached(&campaign(self.name, &settings))
    }

    /// Everything that a repair must bring back.
    async fn state(&self, world: &World) -> Vec<Vec<String>> {
        let table = self.table_name();
        let users = format!("SELECT user_id FROM {table} ORDER BY user_id");
        let mut state = world.sql(&users).await;
        for command in self.state {
            let mut read: Vec<String> = match world.redis(command).await {
                redis::Value::Nil => Vec::new(),
                redis::Value::Array(all) => all.into_iter().map(text).collect(),
                one => vec![text(one)],
            };
            if !command.starts_with("HGETALL") {
                read.sort();
            }
            state.push(read);
        }
        state
    }
}

/// Breaks and repairs a system.
async fn repair(world: &World, system: &System) -> anyhow::Result<()> {
    let attached = system.open(world).await;
    let findings = pass(&attached).await;
    ensure!(findings.is_empty(), "at first {findings:#?}");
    let before = system.state(world).await;

    if system.names_users {
        let table = system.table_name();
        let lose = format!("DELETE FROM {table} WHERE user_id = {}", LOST[0]);
        world.sql(&lose).await;
    }
    system.run(world, system.fault, LOST[1]).await;
    ensure!(system.state(world).await != before, "nothing broke");
    let findings = pass(&attached).await;
    let kinds = told(&findings).join(", ");
    for kind in ["1 unissued", "1 missing_admission"] {
        let is_named = kinds.contains(kind) == system.names_users;
        ensure!(is_named, "{kinds} {findings:#?}");
    }
    // If a counter of coupons left is raised, others may claim, so an operator confirms it.
    let confirmed = confirm(&attached).await;
    let state = system.state(world).await;
    ensure!(
        state == before,
        "{state:?} instead of {before:?}: {findings:#?} {confirmed:#?}"
    );
    let findings = pass(&attached).await;
    ensure!(findings.is_empty(), "at last {findings:#?}");
    Ok(())
}

#[tokio::test]
async fn published_systems_are_repaired_to_their_former_state() {
    let world = World::empty().await;
    let mut failed = Vec::new();
    for system in SYSTEMS {
        if let Err(error) = repair(&world, system).await {
            failed.push(format!("{}: {error}", system.name));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// U-Ply/backend: one set of users for several stocks, a string per stock, a status of the coupon.
/// Two kinds of campaigns describe it: one with the users, which names users who lost a row of any
/// stock, and one per stock, which counts.
#[tokio::test]
async fn users_of_several_stocks_and_the_count_of_each_are_two_campaigns() {
    const FILE: &str = "[[campaign]]
name = 'users'
quantity = 40
users = { key = '@users', type = 'set' }
rows = { table = 'coupon', user = 'user_id', where = { event_id = 3, status = ['ISSUED', 'USED'] } }
[[campaign]]
name = 'stock 1'
mode = 'repair'
quantity = 20
count = { key = '@stock:1', means = 'left' }
rows = { table = 'coupon', user = 'user_id', where = { stock_id = 1, status = ['ISSUED', 'USED'] } }";
    // Two more lines name the stores.
    assert_eq!(FILE.lines().count(), 11);
    let world = World::empty().await;
    let table = "CREATE TABLE coupon (id BIGINT AUTO_INCREMENT PRIMARY KEY, event_id BIGINT NOT NULL, \
        stock_id BIGINT NOT NULL, user_id BIGINT NOT NULL, status VARCHAR(9) NOT NULL, \
        UNIQUE (event_id, user_id))";
    world.sql(table).await;
    let () = world.redis("MSET @stock:1 20 @stock:2 20").await;
    let claim = async |user: u32| {
        let stock = user % 2 + 1;
        let status = if user < 9 { "USED" } else { "ISSUED" };
        let row = format!(
            "INSERT INTO coupon (event_id, stock_id, user_id, status) VALUES (3, {stock}, {user}, '{status}')"
        );
        world.sql(&row).await;
    };
    for user in 0..30 {
        let () = world.redis(&format!("SADD @users {user}")).await;
        let () = world.redis(&format!("DECR @stock:{}", user % 2 + 1)).await;
        claim(user).await;
    }
    let fast = FILE.replace("\nquantity", "\nin_flight = '0.01s'\nquantity");
    let attached = world.attached(&fast);
    let findings = pass(&attached).await;
    assert!(findings.is_empty(), "{findings:#?}");

    let () = world.redis("DECR @stock:1").await;
    let stock = Some(attached.file.campaigns[1].coupon_id());
    pass_over(&attached, stock, Asked::default()).await;
    let confirmed = Asked {
        confirm: true,
        ..Asked::default()
    };
    let findings = pass_over(&attached, stock, confirmed).await;
    assert_eq!(
        told(&findings),
        ["1 count_mismatch applied"],
        "{findings:#?}"
    );
    assert_eq!(world.redis::<i64>("GET @stock:1").await, 5);

    // The campaign with the users only reports. Their program knows the stock, and issues the
    // coupon again.
    world.sql("DELETE FROM coupon WHERE user_id = 13").await;
    let () = world.redis("SREM @users 15").await;
    let findings = pass(&attached).await;
    let named = told(&findings).join(", ");
    assert!(named.contains("1 missing_admission skipped"), "{named}");
    assert!(named.contains("1 unissued skipped"), "{named}");
    claim(13).await;
    let () = world.redis("SADD @users 15").await;
    let findings = pass(&attached).await;
    assert!(findings.is_empty(), "{findings:#?}");
}

/// The final design of a published write-up: no key of users; consumers take from a stock column
/// and write the row; what failed is in a log; the id of a coupon is in a set while something is
/// left.
#[tokio::test]
async fn stock_column_and_a_set_of_available_ids_need_no_key_of_users() {
    const FILE: &str = "[[campaign]]
name = 'coupon 7'
mode = 'repair'
quantity_sql = 'SELECT total FROM stock WHERE coupon_id = 7'
rows = { table = 'history', user = 'user_id', where = { coupon_id = 7 }, duplicates = 'locked' }
failed = { table = 'failed', user = 'user_id', where = { coupon_id = 7 }, skip = { reason = ['BLOCKED'] }, done = 'delete' }
stock = { table = 'stock', where = { coupon_id = 7 }, left = 'remaining' }
sale = { key = '@available', member = '7' }
queue = { list = '@queue' }";
    assert!(FILE.lines().count() + 2 <= 12);
    let world = World::empty().await;
    for sql in [
        "CREATE TABLE stock (coupon_id INT PRIMARY KEY, total INT NOT NULL, remaining INT NOT NULL)",
        "INSERT INTO stock VALUES (7, 20, 5)",
        "CREATE TABLE history (id INT AUTO_INCREMENT PRIMARY KEY, coupon_id INT, user_id INT, KEY (coupon_id, user_id))",
        "CREATE TABLE failed (id INT AUTO_INCREMENT PRIMARY KEY, coupon_id INT, user_id INT, reason VARCHAR(9))",
    ] {
        world.sql(sql).await;
    }
    for user in 0..15 {
        let row = format!("INSERT INTO history (coupon_id, user_id) VALUES (7, {user})");
        world.sql(&row).await;
    }
    let () = world.redis("SADD @available 7 8").await;
    let fast = FILE.replace("\nrows", "\nin_flight = '0.01s'\nrows");
    let attached = world.attached(&fast);
    let findings = pass(&attached).await;
    assert!(findings.is_empty(), "{findings:#?}");

    // A consumer failed for one user; another user was correctly refused.
    let failed =
        "INSERT INTO failed (coupon_id, user_id, reason) VALUES (7, 15, NULL), (7, 16, 'BLOCKED')";
    world.sql(failed).await;
    let () = world.redis("SREM @available 7").await;
    pass(&attached).await;
    let findings = confirm(&attached).await;
    let expected = ["1 failed_claim applied", "1 unfilled skipped"];
    assert_eq!(told(&findings), expected, "{findings:#?}");
    let why = "the key of the sale says that nothing is left, and 4 are";
    assert!(
        findings.iter().any(|it| it.detail.contains(why)),
        "{findings:#?}"
    );
    let rows = "SELECT COUNT(*), MAX(user_id), (SELECT remaining FROM stock) FROM history";
    assert_eq!(world.sql(rows).await, [["16", "15", "4"]]);
    let () = world.redis("SADD @available 7").await;
    let findings = pass(&attached).await;
    assert!(findings.is_empty(), "{findings:#?}");

    for user in 16..20 {
        let row = format!("INSERT INTO history (coupon_id, user_id) VALUES (7, {user})");
        world.sql(&row).await;
    }
    world.sql("UPDATE stock SET remaining = 0").await;
    let findings = pass(&attached).await;
    assert_eq!(
        told(&findings),
        ["1 count_mismatch skipped"],
        "{findings:#?}"
    );
}

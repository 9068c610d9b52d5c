//! Cases that passes over real stores must distinguish before a repair writes: unclear ones are
//! reported, held back or refused.

use std::ops::Range;

use firstcome_attach::Attached;
use firstcome_attach::keys::Keys;
use firstcome_shared::domain::DropId;
use firstcome_shared::report::{Finding, Kind};
use firstcome_stack::mysql_rows;

use crate::world::{World, campaign, confirm, pass, refusal, told, trust, users};

/// Twenty users who have rows, and a file whose mapping is trusted.
struct Shop {
    world: World,
    attached: Attached,
}

fn file(stores: &str) -> String {
    campaign("Winter", &format!("quantity = 100\n{stores}"))
}

impl Shop {
    /// `columns` of the table of coupons come after its key. `values` are those of a row, in which
    /// `{U}` is the number of its user.
    async fn open(columns: &str, values: &str, stores: &str) -> Self {
        let world = World::empty().await;
        let table = format!("CREATE TABLE coupon (id INT AUTO_INCREMENT PRIMARY KEY, {columns})");
        world.sql(&table).await;
        let attached = world.attached(&file(stores));
        let shop = Self { world, attached };
        for user in 0..20 {
            shop.insert(&values.replace("{U}", &user.to_string())).await;
        }
        trust(&shop.attached).await;
        shop
    }

    async fn insert(&self, values: &str) {
        let insert = format!("INSERT INTO coupon VALUES (NULL, {values})");
        self.world.sql(&insert).await;
    }

    async fn run(&self, commands: &[&str]) {
        for command in commands {
            let _reply: redis::Value = self.world.redis(command).await;
        }
    }

    async fn add_members(&self, range: Range<u32>) {
        self.world.add_members("@users", users(range)).await;
    }

    /// Records what an earlier pass did for a user.
    async fn record(&self, user: &str, result: &str) {
        let drop = DropId::of_campaign("Winter", None);
        let insert = format!(
            "INSERT INTO reconcile_findings (run_id, drop_id, kind, user_id, action, result) \
             VALUES ('run', {drop}, 'unissued', {user}, 'issue', '{result}')"
        );
        mysql_rows(&self.world.ours, &insert).await.unwrap();
    }

    async fn pass(&self) -> Vec<Finding> {
        pass(&self.attached).await
    }

    /// Returns why the file with these stores is refused; empty if it is not.
    async fn refusal(&self, stores: &str) -> String {
        refusal(&self.world.attached(&file(stores))).await
    }
}

const UNIQUE: &str = "user_id INT NOT NULL UNIQUE";
const SET: &str = "users = { key = '@users', type = 'set' }
    rows = { table = 'coupon', user = 'user_id' }";

/// Their refund keeps the row with another status, and removes no user from Redis.
#[tokio::test]
async fn member_whose_row_has_another_status_is_reported_and_moves_no_counter() {
    let columns = "user_id INT NOT NULL UNIQUE, status VARCHAR(9) NOT NULL";
    let campaign = "users = { key = '@users', type = 'set' }
        count = { key = '@left', means = 'left' }
        rows = { table = 'coupon', user = 'user_id', where = { status = ['ISSUED', 'USED'] } }";
    let shop = Shop::open(columns, "{U}, 'ISSUED'", campaign).await;
    shop.add_members(0..20).await;
    shop.run(&["SET @left 80"]).await;
    assert!(shop.pass().await.is_empty());
    let refund = "UPDATE coupon SET status = 'CANCELLED' WHERE user_id = 3";
    shop.world.sql(refund).await;
    shop.run(&["INCR @left"]).await;
    let findings = shop.pass().await;
    assert_eq!(told(&findings), ["1 unissued skipped"], "{findings:#?}");
    let why = &findings[0].detail;
    assert!(why.contains("if it was taken back, remove"), "{why}");
    assert_eq!(shop.world.redis::<i64>("GET @left").await, 81);
}

/// Their job erases users: their coupons stay given out, although no row and no member names them.
#[tokio::test]
async fn counter_is_not_lowered_unconfirmed_after_rows_lost_their_user_or_status() {
    let columns = "user_id INT NULL, status VARCHAR(9) NOT NULL";
    let of = "where = { status = ['ISSUED', 'USED'] }, duplicates = 'reported'";
    let campaign = format!(
        "count = {{ key = '@count', means = 'issued' }}\n{}",
        SET.replace("'user_id'", &format!("'user_id', {of}"))
    );
    for (erase, result, count) in [
        ("UPDATE coupon SET user_id = NULL", "planned", 20),
        ("UPDATE coupon SET status = 'ERASED'", "planned", 20),
        ("DELETE FROM coupon", "applied", 17),
    ] {
        let shop = Shop::open(columns, "{U}, 'ISSUED'", &campaign).await;
        shop.add_members(0..20).await;
        shop.run(&["SET @count 20"]).await;
        assert!(shop.pass().await.is_empty());
        let erase = format!("{erase} WHERE user_id < 3");
        shop.world.sql(&erase).await;
        shop.run(&["SREM @users 0 1 2"]).await;
        let findings = shop.pass().await;
        let expected = format!("1 count_mismatch {result}");
        assert_eq!(told(&findings), [expected], "{erase}: {findings:#?}");
        assert_eq!(shop.world.redis::<i64>("GET @count").await, count);
    }
}

#[tokio::test]
async fn user_is_added_unconfirmed_only_if_the_file_names_the_status_column() {
    let columns = "user_id INT NOT NULL UNIQUE, status VARCHAR(9) NOT NULL DEFAULT 'ISSUED'";
    for (rows, result) in [
        ("", "planned"),
        (", where = { status = ['ISSUED', 'USED'] }", "applied"),
        (", ignore = ['status']", "applied"),
    ] {
        let campaign = SET.replace("'user_id'", &format!("'user_id'{rows}"));
        let shop = Shop::open(columns, "{U}, 'ISSUED'", &campaign).await;
        shop.add_members(1..20).await;
        let findings = shop.pass().await;
        let expected = format!("1 missing_admission {result}");
        assert_eq!(told(&findings), [expected], "{rows} {findings:#?}");
    }
}

#[tokio::test]
async fn second_row_in_another_spelling_makes_no_second_member() {
    let columns = "user_id VARCHAR(9) COLLATE utf8mb4_0900_ai_ci NOT NULL";
    let campaign = SET.replace("'user_id'", "'user_id', duplicates = 'reported'");
    let shop = Shop::open(columns, "'user{U}'", &campaign).await;
    for user in 0..20 {
        shop.run(&[&format!("SADD @users user{user}")]).await;
    }
    for row in ["'USER7'", "'lee'", "'Lee'"] {
        shop.insert(row).await;
    }
    let findings = shop.pass().await;
    let expected = ["2 duplicate_row skipped", "1 missing_admission applied"];
    assert_eq!(told(&findings), expected, "{findings:#?}");
    assert_eq!(shop.world.redis::<i64>("SCARD @users").await, 21);
}

/// Their program writes UUIDs to Redis without hyphens, and adds a member in no other spelling.
#[tokio::test]
async fn members_without_hyphens_match_their_rows_and_none_is_added_with_hyphens() {
    let columns = "user_id BINARY(16) NOT NULL UNIQUE";
    let shop = Shop::open(columns, "UNHEX(LPAD({U}, 32, '0'))", SET).await;
    let members = (0..21).filter(|it| *it != 7);
    let members = members.map(|user: u32| format!("{user:032}"));
    shop.world.add_members("@users", members).await;
    let findings = shop.pass().await;
    let expected = ["1 missing_admission skipped", "1 unissued applied"];
    assert_eq!(told(&findings), expected, "{findings:#?}");
    assert_eq!(shop.world.redis::<i64>("SCARD @users").await, 20);
    shop.run(&[&format!("SADD @users {:032}", 7)]).await;
    assert!(shop.pass().await.is_empty());
    assert_eq!(shop.world.row_count().await, 21);
}

#[tokio::test]
async fn placeholder_that_the_file_names_counts_nowhere() {
    let count = "count = { key = '@count', means = 'issued' }\n";
    let campaign = format!(
        "{count}{}",
        SET.replace("'set'", "'set', except = ['init']")
    );
    let shop = Shop::open(UNIQUE, "{U}", &campaign).await;
    shop.add_members(0..20).await;
    shop.run(&["SADD @users init", "SET @count 20"]).await;
    let findings = shop.pass().await;
    assert!(findings.is_empty(), "{findings:#?}");
}

/// The placeholder keeps the hash alive, and has a value that no user has.
#[tokio::test]
async fn user_gets_the_value_of_the_other_users_and_never_that_of_a_placeholder() {
    let campaign = SET.replace("'set'", "'hash', except = ['init']");
    let shop = Shop::open(UNIQUE, "{U}", &campaign).await;
    shop.run(&["HSET @users init 0"]).await;
    shop.pass().await;
    let findings = confirm(&shop.attached).await;
    let expected = ["20 missing_admission failed"];
    assert_eq!(told(&findings), expected, "{findings:#?}");
    for user in (0..20).filter(|it| *it != 7) {
        shop.run(&[&format!("HSET @users {user} 1")]).await;
    }
    let findings = shop.pass().await;
    let expected = ["1 missing_admission applied"];
    assert_eq!(told(&findings), expected, "{findings:#?}");
    assert_eq!(shop.world.redis::<i64>("HGET @users 7").await, 1);
}

/// It may be their own, such as a time.
#[tokio::test]
async fn value_of_the_only_user_in_a_hash_is_given_to_nobody_else() {
    let shop = Shop::open(UNIQUE, "{U}", SET).await;
    let mut keys = Keys::new(&shop.attached.redis);
    let key = shop.world.key("@hash").into_bytes();
    shop.run(&["HSET @hash init 0"]).await;
    for (user, value, is_shared) in [(1, "a", false), (2, "a", true), (3, "b", false)] {
        shop.run(&[&format!("HSET @hash {user} {value}")]).await;
        let found = keys.value_of_all(&key, &[b"init".to_vec()]).await.unwrap();
        let expected = is_shared.then(|| value.as_bytes().to_vec());
        assert_eq!(found, expected, "{user}");
    }
}

/// A member is added with a score only if a neighbour shows how scores are made.
#[tokio::test]
async fn member_is_added_with_the_score_of_its_row_or_not_at_all() {
    let columns = "user_id INT NOT NULL UNIQUE, at DATETIME NULL";
    let at = |user: u32| 1_767_323_045 + i64::from(user);
    for (order, score, result) in [
        ("at", "seconds", "applied"),
        ("at", "millis", "applied"),
        ("at", "nanos", "applied"),
        ("id", "ticket", "applied"),
        // Clocks of another zone, a ticket for a time, a time for a ticket, and NULL.
        ("at", "zone", "failed"),
        ("at", "ticket", "failed"),
        ("id", "millis", "failed"),
        ("at", "null", "failed"),
    ] {
        let campaign = format!(
            "time_zone = 'UTC'
            users = {{ key = '@users', type = 'sorted set' }}
            rows = {{ table = 'coupon', user = 'user_id', order = '{order}', insert = {{ at = '{{now}}' }} }}"
        );
        let values = "{U}, FROM_UNIXTIME(1767323045 + {U})";
        let shop = Shop::open(columns, values, &campaign).await;
        let zone =
            "UPDATE coupon SET at = TIMESTAMPADD(SECOND, 1767323045 + user_id, '1970-01-01')";
        shop.world.sql(zone).await;
        for user in 0..20 {
            let score = match score {
                "seconds" | "null" => at(user),
                "millis" => at(user) * 1_000 + 7,
                "nanos" => at(user) * 1_000_000_000,
                "zone" => at(user) + 9 * 3_600,
                _ => i64::from(user) + 1,
            };
            shop.run(&[&format!("ZADD @users {score} {user}")]).await;
        }
        let lost: f64 = shop.world.redis("ZSCORE @users 5").await;
        shop.run(&["ZREM @users 5"]).await;
        if score == "null" {
            let null = "UPDATE coupon SET at = NULL WHERE user_id = 5";
            shop.world.sql(null).await;
        }
        let findings = shop.pass().await;
        let expected = format!("1 missing_admission {result}");
        assert_eq!(told(&findings), [expected], "{order} {score} {findings:#?}");
        let found: Option<f64> = shop.world.redis("ZSCORE @users 5").await;
        assert_eq!(found.is_some(), result == "applied", "{order} {score}");
        let is_near = found.is_none_or(|found| (found / lost - 1.0).abs() < 1e-6);
        assert!(is_near, "{order} {score}: {found:?} {lost}");
    }
}

#[tokio::test]
async fn column_that_seems_to_tell_campaigns_apart_must_be_in_where_or_ignored() {
    let columns = "coupon_id INT NOT NULL DEFAULT 7, user_id INT NOT NULL, order_id INT NULL, \
        UNIQUE (coupon_id, user_id)";
    let shop = Shop::open(columns, "7, {U}, IF({U} = 3, NULL, {U} + 1000)", SET).await;
    let apart = "write it in where, or ignore = [\"coupon_id\"]";
    let once = SET.replace("'user_id'", "'user_id', duplicates = 'reported'");
    let why = shop.refusal(&once).await;
    assert!(why.contains(apart) && !why.contains("order_id"), "{why}");
    let why = shop.refusal(SET).await;
    let key = "if coupon_id tells campaigns apart, write it in where";
    assert!(why.contains(key), "{why}");
    for named in ["where = { coupon_id = 7 }", "ignore = ['coupon_id']"] {
        let named = once.replace("'user_id'", &format!("'user_id', {named}"));
        assert_eq!(shop.refusal(&named).await, "", "{named}");
    }
    let observed = file(&once).replace("mode = 'repair'\n", "");
    let notes = shop.world.attached(&observed).check().await.unwrap();
    assert!(notes.iter().any(|it| it.contains(apart)), "{notes:?}");

    let failed = "CREATE TABLE failed (id INT AUTO_INCREMENT PRIMARY KEY, user_id INT, event_type VARCHAR(9), \
        error_type VARCHAR(9))";
    shop.world.sql(failed).await;
    for user in 0..4 {
        let event = format!("INSERT INTO failed VALUES (NULL, {user}, 'ISSUE', 'timeout')");
        shop.world.sql(&event).await;
    }
    let right = once.replace("'user_id'", "'user_id', where = { coupon_id = 7 }");
    let failed = format!(
        "{right}\nfailed = {{ table = 'failed', user = 'user_id', where = {{}}, done = 'delete' }}"
    );
    let why = shop.refusal(&failed).await;
    let apart = "write it in where, or ignore = [\"event_type\"]";
    assert!(why.contains(apart) && !why.contains("error_type"), "{why}");
    for named in [
        "where = { event_type = 'ISSUE' }",
        "where = {}, ignore = ['event_type']",
    ] {
        let named = failed.replace("where = {}", named);
        assert_eq!(shop.refusal(&named).await, "", "{named}");
    }
}

#[tokio::test]
async fn column_that_is_never_null_in_their_rows_must_be_written() {
    let columns = "user_id INT NOT NULL UNIQUE, code VARCHAR(9) NULL, used_at DATETIME NULL, \
        made_at DATETIME NULL DEFAULT CURRENT_TIMESTAMP";
    let shop = Shop::open(columns, "{U}, {U}, NOW(), NOW()", SET).await;
    let why = shop.refusal(SET).await;
    let expected = "a repair would leave code of coupon NULL, which no other row does";
    assert!(why.contains(expected), "{why}");
    let ignored = SET.replace("'user_id'", "'user_id', ignore = ['code']");
    assert_eq!(shop.refusal(&ignored).await, why);
    for value in ["{null}", "{random:8}"] {
        let given = format!("'user_id', insert = {{ code = '{value}' }}");
        assert_eq!(shop.refusal(&SET.replace("'user_id'", &given)).await, "");
    }
}

/// MySQL refuses the row of user 50 at each pass.
#[tokio::test]
async fn refused_row_leaves_no_counter_wrong_and_no_other_user_waiting() {
    let columns = "user_id INT NOT NULL UNIQUE CHECK (user_id <> 50)";
    let campaign = format!("count = {{ key = '@count', means = 'issued' }}\n{SET}");
    let shop = Shop::open(columns, "{U}", &campaign).await;
    shop.add_members(0..98).await;
    for user in (20..98).filter(|it| *it != 50) {
        shop.insert(&user.to_string()).await;
    }
    shop.run(&["SET @count 97"]).await;
    let findings = shop.pass().await;
    let expected = ["1 count_mismatch applied", "1 unissued failed"];
    assert_eq!(told(&findings), expected, "{findings:#?}");
    assert_eq!(shop.world.redis::<i64>("GET @count").await, 98);
    for user in 98..100 {
        shop.insert(&user.to_string()).await;
    }
    shop.record("'50'", "failed").await;
    // Three coupons are left for four users.
    shop.world
        .sql("DELETE FROM coupon WHERE user_id IN (97, 98)")
        .await;
    shop.add_members(98..101).await;
    shop.run(&["SET @count 100"]).await;
    shop.pass().await;
    confirm(&shop.attached).await;
    let lawful = "SELECT COUNT(*) FROM coupon WHERE user_id IN (97, 98, 100)";
    assert_eq!(shop.world.sql(lawful).await, [["3"]]);
}

/// Three rows are lost, and two users too many are members. The first pass ends with a deadlock, on
/// a server that is read-only, or because MySQL refuses the rows themselves.
#[tokio::test]
async fn users_keep_their_order_after_an_error_that_is_not_of_their_rows() {
    let columns = "user_id INT NOT NULL UNIQUE, at INT NOT NULL DEFAULT 0";
    let campaign = "users = { key = '@users', type = 'sorted set' }
        rows = { table = 'coupon', user = 'user_id', order = 'at' }";
    for (code, result, last) in [
        (1213, "skipped", 99),
        (1290, "skipped", 99),
        (3819, "failed", 101),
    ] {
        let shop = Shop::open(columns, "{U}, {U}", campaign).await;
        for user in 0..102 {
            shop.run(&[&format!("ZADD @users {user} {user}")]).await;
        }
        for user in 20..97 {
            shop.insert(&format!("{user}, {user}")).await;
        }
        let busy = format!(
            "CREATE TRIGGER busy BEFORE INSERT ON coupon FOR EACH ROW \
             SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {code}"
        );
        shop.world.sql(&busy).await;
        let findings = shop.pass().await;
        let expected = [
            "2 over_admitted skipped".to_owned(),
            format!("3 unissued {result}"),
        ];
        assert_eq!(told(&findings), expected, "{code} {findings:#?}");
        for it in findings.iter().filter(|it| it.kind == Kind::Unissued) {
            assert_eq!(it.needs_person, result == "skipped", "{it:?}");
            let user = it.user_id.as_deref().unwrap();
            shop.record(&format!("'{user}'"), it.result.as_str()).await;
        }
        shop.world.sql("DROP TRIGGER busy").await;
        shop.pass().await;
        let rows = "SELECT COUNT(*), MAX(user_id) FROM coupon WHERE user_id >= 97";
        let expected = [["3".to_owned(), last.to_string()]];
        assert_eq!(shop.world.sql(rows).await, expected, "{code}");
    }
}

#[tokio::test]
async fn condition_of_the_stock_row_must_select_exactly_one_row() {
    for id in [7, 8, 9] {
        let campaign = format!(
            "{}
            stock = {{ table = 'stock', where = {{ kind = {id} }}, left = 'remaining' }}",
            SET.replace("'user_id'", "'user_id', duplicates = 'locked'")
        );
        let shop = Shop::open(UNIQUE, "{U}", &campaign).await;
        for sql in [
            "CREATE TABLE stock (id INT PRIMARY KEY, kind INT, remaining INT)",
            "INSERT INTO stock VALUES (1, 7, 80), (2, 8, 80), (3, 8, 80)",
        ] {
            shop.world.sql(sql).await;
        }
        shop.add_members(0..20).await;
        let findings = shop.pass().await;
        let whys: Vec<&str> = findings.iter().map(|it| it.detail.as_str()).collect();
        let whys = whys.concat();
        match id {
            7 => assert_eq!(whys, ""),
            8 => assert!(whys.contains("stock.where selects several rows"), "{whys}"),
            _ => assert!(whys.contains("stock.where selects no row"), "{whys}"),
        }
    }
}

#[tokio::test]
async fn check_accepts_a_login_that_may_use_only_its_own_keys() {
    let campaign = format!("{SET}\nqueue = {{ list = '@queue' }}");
    let mut shop = Shop::open(UNIQUE, "{U}", &campaign).await;
    let name = format!("own_{}", shop.world.prefix.trim_end_matches(':'));
    let rights = format!("ACL SETUSER {name} on nopass ~@* allcommands");
    let () = shop.world.redis(&rights).await;
    let url = shop.world.redis_url.replace("//", &format!("//{name}:x@"));
    shop.attached.redis = crate::world::redis_at(&url);
    shop.attached.check().await.unwrap();
}

#[tokio::test]
async fn member_beyond_the_character_set_of_failed_events_stops_no_pass() {
    let columns = "user_id VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL UNIQUE";
    let campaign = format!(
        "{SET}
        failed = {{ table = 'failed', user = 'user_id', where = {{}}, skip = {{ reason = ['BLOCKED'] }}, done = 'delete' }}"
    );
    let shop = Shop::open(columns, "'{U}'", &campaign).await;
    for sql in [
        "CREATE TABLE failed (id INT AUTO_INCREMENT PRIMARY KEY, \
            user_id VARCHAR(20) CHARACTER SET ascii, reason VARCHAR(9))",
        "INSERT INTO failed (user_id, reason) VALUES ('20', 'BLOCKED')",
    ] {
        shop.world.sql(sql).await;
    }
    shop.add_members(0..21).await;
    shop.run(&["SADD @users 손님"]).await;
    let findings = shop.pass().await;
    let expected = ["1 unissued applied", "1 unissued skipped"];
    assert_eq!(told(&findings), expected, "{findings:#?}");
}

/// Their tables ignore case, and their consumer writes names in lower case.
#[tokio::test]
async fn failed_event_of_a_member_in_another_spelling_is_one_of_that_user() {
    let name = "user_id VARCHAR(9) COLLATE utf8mb4_0900_ai_ci NOT NULL";
    let campaign = format!(
        "{SET}
        failed = {{ table = 'failed', user = 'user_id', where = {{}}, skip = {{ reason = ['BLOCKED'] }}, done = 'delete' }}"
    );
    let shop = Shop::open(&format!("{name} UNIQUE"), "'user{U}'", &campaign).await;
    let table = "CREATE TABLE failed (id INT AUTO_INCREMENT PRIMARY KEY, reason VARCHAR(9)";
    let events = "INSERT INTO failed (user_id, reason) VALUES ('kim', 'BLOCKED'), ('lee', 'TIMEOUT'), \
        ('USER3', 'TIMEOUT'), ('ann', 'TIMEOUT')";
    for sql in [&format!("{table}, {name})"), events] {
        shop.world.sql(sql).await;
    }
    let members = users(0..20).map(|user| format!("user{user}"));
    shop.world.add_members("@users", members).await;
    shop.run(&["SADD @users Kim Lee"]).await;
    let findings = shop.pass().await;
    let expected = [
        "2 failed_claim applied",
        "1 failed_claim skipped",
        "1 unissued skipped",
    ];
    assert_eq!(told(&findings), expected, "{findings:#?}");
    let added = "SELECT user_id FROM coupon WHERE user_id NOT LIKE 'user%'";
    assert_eq!(shop.world.sql(added).await, [["Lee"]]);
    let left = "SELECT user_id FROM failed ORDER BY id";
    assert_eq!(shop.world.sql(left).await, [["kim"], ["ann"]]);
}

/// All who asked are members, and the counter decides. Each user with a row is a member.
#[tokio::test]
async fn failed_event_of_an_applicant_in_another_spelling_is_one_of_that_user() {
    let name = "user_id VARCHAR(9) COLLATE utf8mb4_0900_ai_ci NOT NULL";
    let campaign = "users = { key = '@users', type = 'set', means = 'applied' }
        count = { key = '@count', means = 'tickets' }
        rows = { table = 'coupon', user = 'user_id' }
        failed = { table = 'failed', user = 'user_id', where = {}, done = 'delete' }";
    let shop = Shop::open(&format!("{name} UNIQUE"), "'user{U}'", campaign).await;
    for sql in [
        &format!("CREATE TABLE failed (id INT AUTO_INCREMENT PRIMARY KEY, {name})"),
        "INSERT INTO failed (user_id) VALUES ('lee')",
    ] {
        shop.world.sql(sql).await;
    }
    let members = users(0..20).map(|user| format!("user{user}"));
    shop.world.add_members("@users", members).await;
    shop.run(&["SADD @users Lee", "SET @count 21"]).await;
    let findings = shop.pass().await;
    let expected = ["1 failed_claim applied"];
    assert_eq!(told(&findings), expected, "{findings:#?}");
    let added = "SELECT user_id FROM coupon WHERE user_id NOT LIKE 'user%'";
    assert_eq!(shop.world.sql(added).await, [["Lee"]]);
}

/// Their refund keeps the row of `kim`, who is a member as `Kim`.
#[tokio::test]
async fn member_whose_row_was_taken_back_in_another_spelling_moves_no_counter() {
    let columns = "user_id VARCHAR(9) COLLATE utf8mb4_0900_ai_ci NOT NULL UNIQUE, \
        status VARCHAR(9) NOT NULL";
    let of = "where = { status = ['ISSUED', 'USED'] }";
    let campaign = format!(
        "count = {{ key = '@count', means = 'issued' }}\n{}",
        SET.replace("'user_id'", &format!("'user_id', {of}"))
    );
    let shop = Shop::open(columns, "'user{U}', 'ISSUED'", &campaign).await;
    shop.insert("'kim', 'CANCELLED'").await;
    let members = users(0..20).map(|user| format!("user{user}"));
    shop.world.add_members("@users", members).await;
    shop.run(&["SADD @users Kim", "SET @count 20"]).await;
    let findings = shop.pass().await;
    assert_eq!(told(&findings), ["1 unissued skipped"], "{findings:#?}");
    assert_eq!(shop.world.redis::<i64>("GET @count").await, 20);
}

#[tokio::test]
async fn rows_without_an_order_name_no_user_as_the_last() {
    let world = World::empty().await;
    let table =
        "CREATE TABLE coupon (id CHAR(36) PRIMARY KEY DEFAULT (UUID()), user_id INT UNIQUE)";
    world.sql(table).await;
    let short = file(SET).replace("100", "18");
    let attached = world.attached(&short);
    world.add_rows(users(0..20)).await;
    world.add_members("@users", users(0..20)).await;
    let findings = pass(&attached).await;
    assert_eq!(told(&findings), ["1 over_issued skipped"], "{findings:#?}");
    let why = &findings[0].detail;
    assert!(why.contains("2 rows are beyond the quantity"), "{why}");
    assert!(why.contains("write rows.order"), "{why}");
}

/// The record of repairs holds no names beyond ASCII.
#[tokio::test]
async fn users_whose_ids_the_record_cannot_hold_are_not_confused() {
    let columns = "user_id VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL UNIQUE";
    let shop = Shop::open(columns, "'{U}'", SET).await;
    shop.add_members(0..20).await;
    for _ in 0..2 {
        shop.record("NULL", "applied").await;
    }
    shop.run(&["SADD @users 손님"]).await;
    let findings = shop.pass().await;
    assert_eq!(told(&findings), ["1 unissued applied"], "{findings:#?}");
}

#[tokio::test]
async fn right_to_see_triggers_is_asked_for_if_a_column_has_no_default() {
    let columns = "user_id INT NOT NULL UNIQUE, code CHAR(8) NOT NULL";
    let mut shop = Shop::open(columns, "{U}, 'x'", SET).await;
    let fills = "CREATE TRIGGER fills BEFORE INSERT ON coupon FOR EACH ROW SET NEW.code = 'y'";
    shop.world.sql(fills).await;
    shop.attached.check().await.unwrap();
    let login = shop.world.login("inserts").await;
    let grant = format!(
        "GRANT SELECT, INSERT ON {}.* TO {login}",
        shop.world.database_name()
    );
    shop.world.sql(&grant).await;
    shop.attached.theirs = shop.world.mysql_as(&login);
    let why = refusal(&shop.attached).await;
    assert!(
        why.contains("if a trigger fills it: GRANT TRIGGER"),
        "{why}"
    );
}

/// Two campaigns share a table. User 20 has a row of the second, and lacks that of the first.
#[tokio::test]
async fn flag_that_tells_two_campaigns_apart_is_not_taken_for_a_status() {
    let columns = "user_id INT NOT NULL, is_vip TINYINT NOT NULL DEFAULT 0, \
        UNIQUE (user_id, is_vip)";
    let usual = SET.replace("'user_id'", "'user_id', where = { is_vip = false }");
    let shop = Shop::open(columns, "{U}, 0", &usual).await;
    shop.add_members(0..21).await;
    shop.insert("20, 1").await;
    shop.run(&["SADD @vips 20"]).await;
    let other = file(&usual)
        .replace("Winter", "VIP")
        .replace("false", "true")
        .replace("@users", "@vips");
    let both = format!("{}\n{other}", file(&usual));
    let attached = shop.world.attached(&both);
    let notes = attached.check().await.unwrap();
    assert!(
        !notes.iter().any(|it| it.contains("may change")),
        "{notes:?}"
    );
    // Beside the second campaign, `is_vip` is no longer taken for a status, so a row with its other
    // value no longer counts as taken back. That makes the mapping a new one, whose repairs wait
    // for a confirmation.
    let findings = pass(&attached).await;
    assert_eq!(told(&findings), ["1 unissued planned"], "{findings:#?}");
    trust(&attached).await;
    let findings = pass(&attached).await;
    assert_eq!(told(&findings), ["1 unissued applied"], "{findings:#?}");
}

#[tokio::test]
async fn quantity_that_falls_with_each_row_is_refused() {
    let campaign = format!("quantity_sql = 'SELECT total FROM stock'\n{SET}");
    let shop = Shop::open(UNIQUE, "{U}", SET).await;
    for sql in [
        "CREATE TABLE stock (total INT)",
        "INSERT INTO stock VALUES (80)",
    ] {
        shop.world.sql(sql).await;
    }
    shop.add_members(0..20).await;
    let told_by = file(&campaign).replace("quantity = 100\n", "");
    let attached = shop.world.attached(&told_by);
    assert_eq!(pass(&attached).await, []);
    shop.add_members(20..30).await;
    for user in 20..30 {
        shop.insert(&user.to_string()).await;
    }
    for (total, is_refused) in [(70, true), (80, false), (60, false)] {
        let set = format!("UPDATE stock SET total = {total}");
        shop.world.sql(&set).await;
        let findings = pass(&attached).await;
        let is_stalled = told(&findings) == ["1 stalled skipped"];
        assert_eq!(is_stalled, is_refused, "{total} {findings:#?}");
    }
}

/// Their program escapes digits in JSON, which hardly any other program does.
#[tokio::test]
async fn member_in_an_unusual_spelling_gets_its_row() {
    let users = "users = { key = '@users', type = 'set', form = 'json' }";
    let campaign = SET.replace("users = { key = '@users', type = 'set' }", users);
    let shop = Shop::open(UNIQUE, "{U}", &campaign).await;
    shop.add_members(0..20).await;
    shop.run(&["SADD @users \"\\u0032\\u0030\""]).await;
    let findings = shop.pass().await;
    assert_eq!(told(&findings), ["1 unissued applied"], "{findings:#?}");
    assert!(shop.pass().await.is_empty());
}

/// A daily drop whose rows have a time.
#[tokio::test]
async fn date_in_a_time_column_selects_the_whole_day() {
    let world = World::empty().await;
    for sql in [
        "CREATE TABLE coupon (id BIGINT PRIMARY KEY DEFAULT (UUID_SHORT()), user_id INT NOT NULL, \
            at DATETIME NOT NULL, KEY (user_id), UNIQUE KEY (user_id, at))",
        "CREATE TABLE failed (id INT AUTO_INCREMENT PRIMARY KEY, user_id INT, at DATETIME)",
        "INSERT INTO failed (user_id, at) VALUES (1, UTC_TIMESTAMP()), \
            (2, UTC_TIMESTAMP() - INTERVAL 3 DAY)",
    ] {
        world.sql(sql).await;
    }
    let day = world.sql("SELECT UTC_DATE()").await.concat().concat();
    for user in 0..3 {
        let () = world.redis(&format!("SADD @{day} {user}")).await;
    }
    for (user, ago) in [(0, 0), (2, 0), (0, 3)] {
        let row = format!(
            "INSERT INTO coupon (user_id, at) VALUES ({user}, UTC_TIMESTAMP() - INTERVAL {ago} DAY)"
        );
        world.sql(&row).await;
    }
    let file = "time_zone = 'UTC'
        users = { key = '@{date}', type = 'set' }
        rows = { table = 'coupon', user = 'user_id', where = { at = '{date}' } }
        failed = { table = 'failed', user = 'user_id', where = { at = '{date}' }, done = 'delete' }";
    let why = refusal(&world.attached(&self::file(file))).await;
    assert!(why.contains("no unique key"), "{why}");
    let once = file.replace(
        "where = { at = '{date}' } }",
        "where = { at = '{date}' }, duplicates = 'reported' }",
    );
    let attached = world.attached(&self::file(&once));
    pass(&attached).await;
    let findings = confirm(&attached).await;
    assert_eq!(told(&findings), ["1 failed_claim applied"], "{findings:#?}");
    let rows = "SELECT COUNT(*) FROM coupon WHERE user_id = 1 AND DATE(at) = UTC_DATE()";
    assert_eq!(world.sql(rows).await, [["1"]]);
    assert!(pass(&attached).await.is_empty());
}

const DAILY: &str = "time_zone = 'UTC'
    users = { key = '@{date}', type = 'set' }
    rows = { table = 'coupon', user = 'user_id', where = { day = '{date}' } }";

const FAILED: &str =
    "failed = { table = 'failed', user = 'user_id', where = { day = '{date}' }, done = 'delete' }";

/// Creates the drops of yesterday and today with these members and users with rows. Returns
/// yesterday, too.
async fn daily(drops: [(&str, &[u32]); 2]) -> (World, String) {
    let world = World::empty().await;
    for table in [
        "CREATE TABLE coupon (id INT AUTO_INCREMENT PRIMARY KEY, user_id INT NOT NULL, \
            day DATE NOT NULL, UNIQUE (user_id, day))",
        "CREATE TABLE failed (id INT AUTO_INCREMENT PRIMARY KEY, user_id INT, day DATE NOT NULL)",
    ] {
        world.sql(table).await;
    }
    let days = "SELECT UTC_DATE() - INTERVAL 1 DAY, UTC_DATE()";
    let mut days = world.sql(days).await.concat();
    for (day, (members, rows)) in days.iter().zip(drops) {
        let () = world.redis(&format!("SADD @{day} {members}")).await;
        for user in rows {
            let row = format!("INSERT INTO coupon (user_id, day) VALUES ({user}, '{day}')");
            world.sql(&row).await;
        }
    }
    (world, days.remove(0))
}

/// Users 1 to 3 have no row of yesterday, and one of today. 1 and 3 claimed before midnight, and 2
/// on both days; the row of 3 failed first. User 4 has rows of both days, and is no member of today.
#[tokio::test]
async fn claim_before_midnight_with_a_row_after_it_gets_no_second_row_or_member() {
    let yesterday_and_today = [
        ("1 2 3 4 5 6", &[4, 5, 6][..]),
        ("2 7 8", &[1, 2, 3, 4, 7, 8]),
    ];
    let (world, yesterday) = daily(yesterday_and_today).await;
    let event = format!("INSERT INTO failed (user_id, day) VALUES (3, '{yesterday}')");
    world.sql(&event).await;
    let attached = world.attached(&file(&format!("{DAILY}\n{FAILED}")));
    trust(&attached).await;
    let findings = pass(&attached).await;
    let expected = [
        "1 failed_claim planned",
        "1 missing_admission applied",
        "2 missing_admission planned",
        "2 unissued planned",
    ];
    assert_eq!(told(&findings), expected, "{findings:#?}");
    let rows = "SELECT COUNT(*) FROM coupon WHERE user_id <= 3";
    assert_eq!(world.number(rows).await, 3);
}

/// Members only applied, so the failed event alone tells that the user was promised a coupon.
#[tokio::test]
async fn failed_event_of_an_applicant_with_a_row_of_the_next_day_needs_confirmation() {
    let (world, yesterday) = daily([("1 2 3", &[1]), ("1 3", &[1, 3])]).await;
    let event = format!("INSERT INTO failed (user_id, day) VALUES (3, '{yesterday}')");
    world.sql(&event).await;
    let applied = DAILY.replace("type = 'set'", "type = 'set', means = 'applied'");
    let attached = world.attached(&file(&format!("{applied}\n{FAILED}")));
    trust(&attached).await;
    let findings = pass(&attached).await;
    assert_eq!(told(&findings), ["1 failed_claim planned"], "{findings:#?}");
}

/// User 4 got no coupon yesterday, and has a row of today.
#[tokio::test]
async fn loser_of_the_day_before_is_added_without_a_confirmation() {
    for (means, winners) in [("admitted", &[1, 2, 3][..]), ("applied", &[1, 2])] {
        let (world, _) = daily([("1 2 3 4", winners), ("7", &[4, 7])]).await;
        let means = format!("type = 'set', means = '{means}'");
        let stores = DAILY.replace("type = 'set'", &means);
        let attached = world.attached(&campaign("Winter", &format!("quantity = 3\n{stores}")));
        trust(&attached).await;
        let mut findings = pass(&attached).await;
        findings.retain(|it| it.kind == Kind::MissingAdmission);
        let expected = ["1 missing_admission applied"];
        assert_eq!(told(&findings), expected, "{means} {findings:#?}");
    }
}

#[tokio::test]
async fn generated_values_are_written_and_must_fit_their_columns() {
    let world = World::empty().await;
    let table = "CREATE TABLE coupon (id BIGINT UNSIGNED PRIMARY KEY, user_id INT NOT NULL UNIQUE, \
        code CHAR(8) NOT NULL, name VARCHAR(36) CHARACTER SET utf8mb4, ends DATETIME)";
    world.sql(table).await;
    let insert =
        "insert = { id = '{uuid}', code = '{random:8}', name = '{uuid}', ends = '{now+30d}' }";
    let campaign = SET.replace("'user_id'", &format!("'user_id', {insert}"));
    let attached = world.attached(&file(&campaign));
    let () = world.redis("SADD @users 1 2").await;
    pass(&attached).await;
    let findings = confirm(&attached).await;
    assert_eq!(told(&findings), ["2 unissued applied"], "{findings:#?}");
    let made = "SELECT COUNT(*) FROM coupon WHERE id > 1000 AND LENGTH(code) = 8 AND LENGTH(name) = 36 \
        AND ABS(TIMESTAMPDIFF(HOUR, NOW(), ends) - 720) < 2";
    assert_eq!(world.sql(made).await, [["2"]]);
    for (right, wrong, column) in [
        ("{random:8}", "{random:9}", "\"code\" of coupon is char(8)"),
        (
            "code = '{random:8}'",
            "code = '{uuid}'",
            "\"code\" of coupon is char(8)",
        ),
        (
            "ends = '{now+30d}'",
            "ends = '{uuid}'",
            "\"ends\" of coupon is datetime",
        ),
    ] {
        let wrong = campaign.replace(right, wrong);
        let why = refusal(&world.attached(&file(&wrong))).await;
        assert!(why.contains(column), "{why}");
    }
}

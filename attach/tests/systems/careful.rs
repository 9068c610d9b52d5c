//! Differences whose obvious repair would do harm: the repair waits for an operator, or is not
//! made.

use std::ops::Range;

use firstcome_attach::Attached;
use firstcome_attach::forms::Form;
use firstcome_shared::report::Outcome;

use crate::world::{World, campaign, confirm, pass, refusal, told, trust, users};

const COUPON: &str = "CREATE TABLE coupon (id INT AUTO_INCREMENT PRIMARY KEY, user_id INT NOT NULL, \
    is_deleted TINYINT NOT NULL DEFAULT 0, deleted_at DATETIME NULL, UNIQUE KEY (user_id, is_deleted))";

/// A campaign of a hundred coupons with twenty users, who have rows.
struct Sale {
    world: World,
    attached: Attached,
}

impl Sale {
    /// `users` and `rows` are settings of these two; `rest` has further parts of the campaign.
    async fn open(users: &str, rows: &str, rest: &str) -> Self {
        let world = World::empty().await;
        world.sql(COUPON).await;
        world
            .sql("CREATE TABLE failed (id INT AUTO_INCREMENT PRIMARY KEY, user_id INT, reason VARCHAR(9))")
            .await;
        world.sql("CREATE TABLE stock (total INT)").await;
        world.sql("INSERT INTO stock VALUES (100)").await;
        let quantity = if rest.contains("quantity_sql") {
            ""
        } else {
            "quantity = 100"
        };
        let settings = format!(
            "{quantity}
            users = {{ key = '@users', {users} }}
            rows = {{ table = 'coupon', user = 'user_id', {rows} }}
            {rest}"
        );
        let attached = world.attached(&campaign("Winter", &settings));
        world.add_rows(self::users(0..20)).await;
        Self { world, attached }
    }

    async fn add_users(&self, range: Range<u32>) {
        self.world.add_members("@users", users(range)).await;
    }

    /// Runs a pass. Returns what it found and did, and the reasons of the differences.
    async fn pass(&self) -> (Vec<String>, String) {
        let findings = pass(&self.attached).await;
        let whys = findings.iter().map(|it| it.detail.clone());
        (told(&findings), whys.collect())
    }
}

const SET: &str = "type = 'set'";
const ONCE: &str = "duplicates = 'reported'";

/// Their operators took a coupon back by a soft deletion, and forgot its user in Redis.
#[tokio::test]
async fn softly_deleted_row_is_not_written_again() {
    for (of, delete) in [
        ("deleted_at = '{null}'", "deleted_at = NOW()"),
        ("is_deleted = 0", "is_deleted = 1"),
    ] {
        let rows = format!("where = {{ {of} }}, {ONCE}");
        let sale = Sale::open(SET, &rows, "").await;
        sale.add_users(0..20).await;
        assert_eq!(sale.pass().await.0, Vec::<String>::new());
        let delete = format!("UPDATE coupon SET {delete} WHERE user_id = 3");
        sale.world.sql(&delete).await;
        sale.world.sql("DELETE FROM coupon WHERE user_id = 4").await;
        sale.pass().await;
        let findings = confirm(&sale.attached).await;
        let kept = findings
            .iter()
            .find(|it| it.user_id.as_deref() == Some("3"));
        let kept = kept.unwrap();
        assert_eq!(kept.result, Outcome::Skipped, "{kept:?}");
        let why = &kept.detail;
        assert!(
            why.contains("if it was taken back, remove the user"),
            "{why}"
        );
        let rows = "one row each, and the deleted one";
        assert_eq!(sale.world.row_count().await, 20, "{rows}");
    }
}

#[tokio::test]
async fn user_whom_a_failed_event_records_as_refused_gets_no_row() {
    let failed = "failed = { table = 'failed', user = 'user_id', where = {}, \
        skip = { reason = ['BLOCKED'] }, done = 'delete' }";
    let sale = Sale::open(SET, ONCE, failed).await;
    sale.add_users(0..20).await;
    assert_eq!(sale.pass().await.0, Vec::<String>::new());
    sale.add_users(20..22).await;
    let refused = "INSERT INTO failed (user_id, reason) VALUES (20, 'BLOCKED'), (21, 'TIMEOUT')";
    sale.world.sql(refused).await;
    let (found, whys) = sale.pass().await;
    assert_eq!(
        found,
        ["1 failed_claim applied", "1 unissued skipped"],
        "{whys}"
    );
    assert!(
        whys.contains("its user was refused (failed.skip)"),
        "{whys}"
    );
    assert_eq!(sale.world.row_count().await, 21);
}

/// A placeholder came first, and two coupons are left for two users.
#[tokio::test]
async fn placeholder_takes_no_coupon_from_a_user() {
    let sale = Sale::open(
        "type = 'sorted set'",
        "where = { is_deleted = 0 }, order = 'id'",
        "",
    )
    .await;
    let () = sale.world.redis("ZADD @users 0 init").await;
    for user in 0..100 {
        let () = sale
            .world
            .redis(&format!("ZADD @users {user} {user}"))
            .await;
    }
    trust(&sale.attached).await;
    sale.world.add_rows(users(20..98)).await;
    let (found, whys) = sale.pass().await;
    assert_eq!(
        found,
        ["2 unissued applied", "1 unissued skipped"],
        "{whys}"
    );
    assert_eq!(sale.world.row_count().await, 100);
}

/// A new version of their program writes members in quotes; the rows of its users are right.
#[tokio::test]
async fn user_who_may_be_a_member_in_another_form_is_not_added() {
    let count = "count = { key = '@count', means = 'issued' }";
    let sale = Sale::open(SET, ONCE, count).await;
    sale.add_users(0..20).await;
    let () = sale.world.redis("SET @count 20").await;
    assert_eq!(sale.pass().await.0, Vec::<String>::new());
    let () = sale.world.redis("SREM @users 19").await;
    let () = sale.world.redis("SADD @users \"19\"").await;
    let (found, whys) = sale.pass().await;
    let expected = [
        "1 count_mismatch planned",
        "1 missing_admission planned",
        "1 unissued skipped",
    ];
    assert_eq!(found, expected, "{whys}");
    assert!(whys.contains("some members are in another form"), "{whys}");
}

/// Somebody raises the total first, and a separate job adds to the counter later.
#[tokio::test]
async fn stock_that_somebody_is_adding_is_not_added_twice() {
    let count = "quantity_sql = 'SELECT total FROM stock'
        count = { key = '@left', means = 'left' }";
    let kept = "where = { is_deleted = 0, deleted_at = '{null}' }";
    let sale = Sale::open(SET, kept, count).await;
    sale.add_users(0..20).await;
    let () = sale.world.redis("SET @left 80").await;
    assert_eq!(sale.pass().await.0, Vec::<String>::new());
    sale.world.sql("UPDATE stock SET total = 150").await;
    let (found, whys) = sale.pass().await;
    assert_eq!(found, ["1 count_mismatch planned"], "{whys}");
    assert!(whys.contains("somebody may have added stock"), "{whys}");
    let () = sale.world.redis("INCRBY @left 50").await;
    assert_eq!(sale.pass().await.0, Vec::<String>::new());
    // This time the counter is raised first, and perhaps the total later.
    let () = sale.world.redis("INCRBY @left 50").await;
    let (found, whys) = sale.pass().await;
    assert_eq!(found, ["1 count_mismatch planned"], "{whys}");
    // A small difference is blamed on the counter, and is repaired without a confirmation.
    let () = sale.world.redis("INCRBY @left -45").await;
    let (found, whys) = sale.pass().await;
    assert_eq!(found, ["1 count_mismatch applied"], "{whys}");
}

#[tokio::test]
async fn look_during_a_sale_remembers_no_quantity() {
    let count = "quantity_sql = 'SELECT total FROM stock'
        count = { key = '@left', means = 'left' }";
    let kept = "where = { is_deleted = 0, deleted_at = '{null}' }";
    let sale = Sale::open(SET, kept, count).await;
    sale.world.sql("UPDATE stock SET total = 100000").await;
    sale.add_users(0..20).await;
    let () = sale.world.redis("SET @left 99980").await;
    assert_eq!(sale.pass().await.0, Vec::<String>::new());
    sale.world.sql("UPDATE stock SET total = 150000").await;
    let selling = async {
        loop {
            let () = sale.world.redis("DECR @left").await;
        }
    };
    tokio::select! {
        (found, whys) = sale.pass() => assert_eq!(found, Vec::<String>::new(), "{whys}"),
        () = selling => {}
    }
    // The fifty thousand new coupons are not in the counter yet.
    let () = sale.world.redis("SET @left 99980").await;
    let (found, whys) = sale.pass().await;
    assert_eq!(found, ["1 count_mismatch planned"], "{whys}");
    assert!(whys.contains("somebody may have added stock"), "{whys}");
}

#[tokio::test]
async fn list_named_in_another_form_is_refused() {
    let sale = Sale::open(SET, ONCE, "queue = { list = '@queue' }").await;
    let key = Form::Java.key(&sale.world.key("@queue"));
    let () = sale.world.bytes("RPUSH", &key, &[b"1".to_vec()]).await;
    let why = refusal(&sale.attached).await;
    assert!(why.contains("is in Redis as a java name"), "{why}");
}

#[tokio::test]
async fn now_is_refused_in_a_number_column() {
    let rows = format!("insert = {{ is_deleted = '{{now}}' }}, {ONCE}");
    let sale = Sale::open(SET, &rows, "").await;
    let why = refusal(&sale.attached).await;
    let expected = "column \"is_deleted\" of coupon is tinyint";
    assert!(why.contains(expected), "{why}");
}

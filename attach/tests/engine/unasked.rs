//! Repairs: what is written unasked, what waits, and what rolls back.

use firstcome_attach::Confirm;
use firstcome_shared::report::Outcome;

use crate::shop::{IN_FLIGHT, Shop, pass, results, settle};

const COUPON: &str = "CREATE TABLE coupon (id BIGINT PRIMARY KEY AUTO_INCREMENT, \
    event_id BIGINT NOT NULL, user_id BIGINT NOT NULL, UNIQUE KEY (event_id, user_id))";

const FILE: &str = r#"
[[campaign]]
name = "Winter"
quantity = 100
promised = { set = "@users" }
count = { key = "@count", counts = "up" }
issued = "SELECT user_id FROM coupon WHERE event_id = 7"
queue = []
in_flight = "20s"
mode = "repair"
issue = ["INSERT INTO coupon (event_id, user_id) VALUES (7, :user)"]
check = []
"#;

async fn shop_with_users(users: u64) -> Shop {
    let shop = Shop::new(&[COUPON]).await;
    shop.add("@users", 1..=users).await;
    let () = shop.redis(&format!("SET @count {users}")).await;
    for user in 1..=users {
        shop.sql(&format!(
            "INSERT INTO coupon (event_id, user_id) VALUES (7, {user})"
        ))
        .await;
    }
    shop
}

async fn lose(shop: &Shop, user: u64) {
    shop.add("@users", [user]).await;
    let _: i64 = shop.redis("INCR @count").await;
}

/// The first plan waits for a person. After that, a user whom the process saw arrive gets a row.
#[tokio::test]
async fn lost_row_of_a_new_user_is_written_unasked_once_a_plan_was_confirmed() {
    let shop = shop_with_users(20).await;
    let engine = shop.engine(FILE);
    assert!(results(&settle(&engine).await).is_empty());
    lose(&shop, 21).await;
    let run = settle(&engine).await;
    assert_eq!(results(&run), [("unissued", Outcome::Planned)]);
    let detail = &run.drops[0].findings[0].detail;
    assert!(detail.contains("first plan"), "{detail}");
    let run = pass(&engine, Some(Confirm::shown_by(&run))).await;
    assert_eq!(results(&run), [("unissued", Outcome::Applied)]);
    assert!(results(&settle(&engine).await).is_empty());
    lose(&shop, 22).await;
    let run = settle(&engine).await;
    assert_eq!(
        results(&run),
        [("unissued", Outcome::Applied)],
        "{:#?}",
        run.drops[0].findings
    );
    assert_eq!(shop.number("SELECT COUNT(*) FROM coupon").await, 22);
    let _: i64 = shop.redis("DECR @count").await;
    lose(&shop, 23).await;
    let run = settle(&engine).await;
    let detail = &run.drops[0].findings[0].detail;
    assert!(
        detail.contains("the counter says 22, and 23 are owed"),
        "{detail}"
    );
}

#[tokio::test]
async fn confirmation_of_names_repairs_those_that_still_hold_and_no_others() {
    let shop = shop_with_users(20).await;
    let engine = shop.engine(FILE);
    settle(&engine).await;
    lose(&shop, 21).await;
    lose(&shop, 22).await;
    let shown = settle(&engine).await;
    lose(&shop, 23).await;
    let _: i64 = shop.redis("SREM @users 22").await;
    let run = pass(&engine, Some(Confirm::shown_by(&shown))).await;
    assert_eq!(results(&run), [("unissued", Outcome::Applied)]);
    let rows = shop
        .sql("SELECT user_id FROM coupon WHERE user_id > 20")
        .await;
    assert_eq!(rows, [["21"]]);
    engine.clock.forward(IN_FLIGHT);
    let run = pass(&engine, None).await;
    let user = |at: usize| run.drops[0].findings[at].user_id.clone();
    assert!(
        results(&run).contains(&("unissued", Outcome::Planned)),
        "{run:#?}"
    );
    assert_eq!(user(0).as_deref(), Some("23"));
}

/// A statement for another campaign's row, and a check that then returns a row, roll back.
#[tokio::test]
async fn row_that_does_not_answer_the_promise_is_rolled_back() {
    let shop = shop_with_users(20).await;
    for (from, to, expected) in [
        ("VALUES (7, :user)", "VALUES (8, :user)", "0 times"),
        (
            "check = []",
            "check = [\"SELECT user_id FROM coupon WHERE user_id > 20\"]",
            "check 1 then returns a row",
        ),
        (
            "VALUES (7, :user)\"]",
            "VALUES (7, :user)\", \"UPDATE coupon SET event_id = 7\"]",
            "changed 0 rows",
        ),
    ] {
        let engine = shop.engine(&FILE.replace(from, to));
        settle(&engine).await;
        lose(&shop, 21).await;
        let shown = settle(&engine).await;
        let run = pass(&engine, Some(Confirm::shown_by(&shown))).await;
        assert_eq!(results(&run), [("unissued", Outcome::Failed)]);
        let detail = &run.drops[0].findings[0].detail;
        assert!(detail.contains(expected), "{detail}");
        assert_eq!(shop.number("SELECT COUNT(*) FROM coupon").await, 20);
        let _: i64 = shop.redis("SREM @users 21").await;
        let _: i64 = shop.redis("DECR @count").await;
    }
}

#[tokio::test]
async fn database_that_accepts_a_second_row_lets_every_repair_wait() {
    let shop = Shop::new(&[
        "CREATE TABLE coupon (id BIGINT PRIMARY KEY AUTO_INCREMENT, event_id \
        BIGINT, user_id BIGINT)",
    ])
    .await;
    shop.add("@users", 1..=20).await;
    let () = shop.redis("SET @count 20").await;
    for user in 1..=20 {
        let insert = format!("INSERT INTO coupon (event_id, user_id) VALUES (7, {user})");
        shop.sql(&insert).await;
    }
    let engine = shop.engine(FILE);
    settle(&engine).await;
    lose(&shop, 21).await;
    let shown = settle(&engine).await;
    pass(&engine, Some(Confirm::shown_by(&shown))).await;
    lose(&shop, 22).await;
    let run = settle(&engine).await;
    assert_eq!(results(&run), [("unissued", Outcome::Planned)]);
    let detail = &run.drops[0].findings[0].detail;
    assert!(detail.contains("ADD UNIQUE"), "{detail}");
    assert_eq!(shop.number("SELECT COUNT(*) FROM coupon").await, 21);
}

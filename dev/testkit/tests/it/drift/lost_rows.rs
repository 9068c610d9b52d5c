//! A single table of MySQL has lost rows. A lost drop is created again under its own id, and no day
//! is given out twice.

use chrono::Utc;
use firstcome_reconciler::report::{Finding, Status};
use firstcome_testkit::{
    Answer, Fixture, HeldTransaction, LIMIT, MadeCoupon, all_issued, coupon_body, eventually,
    people, rows, rush,
};
use serde_json::json;

use crate::drift::sealing::{closed, until_sealed};
use crate::drift::support::{assert_settled, clean_pass, pass_ends};

/// Deletes rows without checking references, as a restore of a single table does.
async fn lose(fixture: &Fixture, delete: &str) {
    let mut session = HeldTransaction::begin(&fixture.world.sql).await;
    session.run("SET FOREIGN_KEY_CHECKS = 0").await;
    session.run(delete).await;
    session.run("SET FOREIGN_KEY_CHECKS = 1").await;
    session.commit().await;
}

async fn lose_drop(fixture: &Fixture, coupon: &MadeCoupon) {
    let delete = format!("DELETE FROM drops WHERE id = {}", coupon.drop);
    lose(fixture, &delete).await;
}

fn daily(quantity: u32) -> serde_json::Value {
    let mut body = coupon_body("Daily", quantity, 0);
    body["schedule"] = json!({
        "type": "daily", "time_zone": "UTC", "opens": "00:00", "closes": "00:00",
        "first_day": Utc::now().date_naive(),
    });
    body
}

/// Waits until strangers are refused as sold out. Until an API has read the restored drop, it
/// answers 503; the holder gets the slot again at any time.
async fn assert_given_out(fixture: &Fixture, coupon: &MadeCoupon, holder: &str) {
    let api = &fixture.api;
    eventually("an API knows the drop again", LIMIT, async || {
        let answer = api.claim(coupon.id, "stranger").await;
        let is_unknown = answer.is("unavailable");
        assert!(answer.is("sold_out") || is_unknown, "{answer:?}");
        answer.is("sold_out")
    })
    .await;
    let answer = api.claim(coupon.id, holder).await;
    assert!(
        matches!(answer, Answer::Already { drop, .. } if drop == coupon.drop),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_drop_whose_row_mysql_lost_is_created_again_and_not_given_out_twice() {
    let fixture = Fixture::new("d-drop-lost").await;
    let world = &fixture.world;
    // A coupon without a day to come is found by a deep pass.
    for (body, args) in [
        (daily(10), &[][..]),
        (coupon_body("Once", 10, 0), &["--deep"]),
    ] {
        let (coupon, answers) = fixture.held_of(&body, 10).await;
        lose_drop(&fixture, &coupon).await;
        pass_ends(world, args, (0, Status::Clean)).await;
        // A daily coupon has more drops, on later days.
        let begun = format!(
            "SELECT GROUP_CONCAT(id) FROM drops WHERE coupon_id = {} AND opens_at <= UTC_TIMESTAMP()",
            coupon.id
        );
        assert_eq!(world.sql.number(&begun).await, coupon.drop);
        assert_given_out(&fixture, &coupon, &answers[0].0).await;
        assert_settled(world, &coupon, 10, 10, &answers).await;
        clean_pass(world, &coupon).await;
    }
}

#[tokio::test]
async fn a_drop_that_mysql_and_redis_lost_comes_back_with_its_rows() {
    let fixture = Fixture::new("d-drop-lost-both").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held_of(&daily(5), 5).await;
    lose_drop(&fixture, &coupon).await;
    let redis = &world.redis;
    for name in ["meta", "users", "count", "free", "times", "waiting"] {
        let key = redis.of_drop(coupon.id, coupon.drop, name);
        redis.command::<()>(&["DEL", &key]).await;
    }
    world.pass().await;
    clean_pass(world, &coupon).await;
    assert_given_out(&fixture, &coupon, &answers[0].0).await;
    assert_settled(world, &coupon, 5, 5, &answers).await;
}

#[tokio::test]
async fn a_pass_reports_why_mysql_refuses_to_create_a_lost_drop_again() {
    let fixture = Fixture::new("d-drop-refused").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held_of(&daily(5), 5).await;
    lose_drop(&fixture, &coupon).await;
    // Its rows have slots above the quantity that it would have.
    let lowered = format!("UPDATE coupons SET quantity = 3 WHERE id = {}", coupon.id);
    world.sql.query(&lowered).await;
    let run = pass_ends(world, &[], (1, Status::Drift)).await;
    let of_coupon = |finding: &&Finding| finding.coupon_id.map(|id| id.0) == Some(coupon.id);
    let refused = run.findings.iter().find(of_coupon);
    assert!(
        refused.is_some_and(|one| one.needs_person && one.detail.contains("foreign key")),
        "{run:#?}"
    );
}

#[tokio::test]
async fn a_day_deleted_before_it_has_rows_is_created_again_and_not_given_out_twice() {
    let fixture = Fixture::new("d-day-deleted").await;
    let world = &fixture.world;
    let coupon = fixture.api.create_coupon(&daily(10)).await;
    assert_eq!(fixture.consumer.process.stop().await, 0);
    let answers = rush(&[&fixture.api], coupon.id, &people(10), 10).await;
    assert!(answers.iter().all(|(_, answer)| answer.is_accepted()));
    // No row refers to it yet, so MySQL permits this, and deletes its limits.
    let delete = format!("DELETE FROM drops WHERE id = {}", coupon.drop);
    world.sql.query(&delete).await;
    world.pass().await;
    let _consumer = world.consume().await;
    all_issued(world, coupon.drop, 10).await;
    assert_given_out(&fixture, &coupon, &answers[0].0).await;
    assert_settled(world, &coupon, 10, 10, &answers).await;
    clean_pass(world, &coupon).await;
}

#[tokio::test]
async fn users_of_a_coupon_that_mysql_lost_get_no_final_answer() {
    let fixture = Fixture::new("d-coupon-lost").await;
    let (coupon, answers) = fixture.held("Lost", 5, 3).await;
    fixture.api.open_coupon(5).await;
    let delete = format!("DELETE FROM coupons WHERE id = {}", coupon.id);
    lose(&fixture, &delete).await;
    eventually("the API does not know the coupon", LIMIT, async || {
        let answer = fixture.api.claim(coupon.id, &answers[0].0).await;
        assert!(!answer.is("not_found"), "{answer:?}");
        answer.promised().is_none()
    })
    .await;
}

#[tokio::test]
async fn a_manual_dead_letter_for_a_sealed_drop_without_its_row_is_issued() {
    let fixture = Fixture::new("d-sealed-row-lost").await;
    let world = &fixture.world;
    let (coupon, answers) = closed(&fixture, "Sealed").await;
    let (user, answer) = &answers[3];
    let (_, slot) = answer.promised().unwrap();
    for redis_forgets in [false, true] {
        until_sealed(&fixture, &coupon).await;
        let delete = format!("drop_id = {} AND slot = {slot}", coupon.drop);
        let delete = format!("DELETE FROM issued_coupons WHERE {delete}");
        world.sql.query(&delete).await;
        let redis = &world.redis;
        if redis_forgets {
            for name in ["meta", "users", "count", "free", "times", "waiting"] {
                let key = redis.of_drop(coupon.id, coupon.drop, name);
                redis.command::<()>(&["DEL", &key]).await;
            }
        }
        let values = format!("{}, {}, {slot}, '{user}', 'manual'", coupon.id, coupon.drop);
        let columns = "coupon_id, drop_id, slot, user_id, reason";
        let insert = format!("INSERT INTO failed_claims ({columns}) VALUES ({values})");
        world.sql.query(&insert).await;
        let args = ["--coupon", &coupon.id.to_string()];
        let once = world.once_with(&args, &[]).await;
        assert_eq!(once.code, 0, "{}", once.log);
        let found = rows(world, coupon.drop).await;
        assert_eq!(found.get(&slot), Some(user), "{:#?}", once.run());
    }
    assert_settled(world, &coupon, 20, 20, &answers).await;
}

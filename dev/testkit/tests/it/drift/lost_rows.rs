//! A single table of MySQL has lost rows. Data that other stores have is restored, and no day is
//! given out twice.

use chrono::Utc;
use firstcome_reconciler::report::{Finding, Outcome, Status};
use firstcome_testkit::{
    Answer, Fixture, HeldTransaction, LIMIT, MadeCoupon, all_issued, coupon_body, eventually,
    people, rows, rush,
};
use serde_json::json;

use crate::drift::sealing::{closed, until_sealed};
use crate::drift::support::{assert_settled, clean_pass, pass_ends, subjects};

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
async fn a_drop_whose_row_mysql_lost_is_restored_and_not_given_out_twice() {
    let fixture = Fixture::new("d-drop-lost").await;
    let world = &fixture.world;
    for body in [daily(10), coupon_body("Once", 10, 0)] {
        let (coupon, answers) = fixture.held_of(&body, 10).await;
        lose_drop(&fixture, &coupon).await;
        let dry = world.once_with(&["--dry-run"], &[]).await;
        assert_eq!(dry.code, 1, "{}", dry.log);
        let run = world.pass().await;
        assert_eq!(run.status, Status::Repaired, "{run:#?}");
        // A daily coupon has more drops, on later days.
        let begun = format!(
            "SELECT COUNT(*) FROM drops WHERE coupon_id = {} AND opens_at <= UTC_TIMESTAMP()",
            coupon.id
        );
        assert_eq!(world.sql.number(&begun).await, 1);
        assert_given_out(&fixture, &coupon, &answers[0].0).await;
        assert_settled(world, &coupon, 10, 10, &answers).await;
        clean_pass(world, &coupon).await;
    }
}

#[tokio::test]
async fn a_lost_drop_with_a_lower_quantity_in_redis_is_restored_with_its_limit() {
    let fixture = Fixture::new("d-drop-lowered").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Lowered", 10, 4).await;
    lose_drop(&fixture, &coupon).await;
    // An API lowers a quantity in Redis first; then MySQL refuses it, because the drop is lost.
    let meta = world.redis.of_drop(coupon.id, coupon.drop, "meta");
    let lower = ["HSET", &meta, "quantity", "6"];
    world.redis.command::<()>(&lower).await;
    let run = world.pass().await;
    assert_eq!(run.status, Status::Repaired, "{run:#?}");
    clean_pass(world, &coupon).await;
    assert_settled(world, &coupon, 10, 4, &answers).await;
}

#[tokio::test]
async fn a_day_deleted_before_it_has_rows_is_restored_and_not_given_out_twice() {
    let fixture = Fixture::new("d-day-deleted").await;
    let world = &fixture.world;
    let coupon = fixture.api.create_coupon(&daily(10)).await;
    assert_eq!(fixture.consumer.process.stop().await, 0);
    let answers = rush(&[&fixture.api], coupon.id, &people(10), 10).await;
    assert!(answers.iter().all(|(_, answer)| answer.is_accepted()));
    // No row refers to it yet, so MySQL permits this, and deletes its limits.
    let delete = format!("DELETE FROM drops WHERE id = {}", coupon.drop);
    world.sql.query(&delete).await;
    let run = world.pass().await;
    assert_eq!(run.status, Status::Repaired, "{run:#?}");
    let _consumer = world.consume().await;
    all_issued(world, coupon.drop, 10).await;
    assert_given_out(&fixture, &coupon, &answers[0].0).await;
    assert_settled(world, &coupon, 10, 10, &answers).await;
    clean_pass(world, &coupon).await;
}

#[tokio::test]
async fn a_lost_coupon_among_others_is_reported_and_its_users_get_no_final_answer() {
    let fixture = Fixture::new("d-coupon-lost").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Lost", 5, 3).await;
    fixture.api.open_coupon(5).await;
    let delete = format!("DELETE FROM coupons WHERE id = {}", coupon.id);
    lose(&fixture, &delete).await;
    let run = pass_ends(world, &[], (1, Status::Drift)).await;
    assert!(
        run.findings
            .iter()
            .any(|finding| finding.coupon_id.map(|id| id.0) == Some(coupon.id)),
        "{run:#?}"
    );
    eventually("the API does not know the coupon", LIMIT, async || {
        let answer = fixture.api.claim(coupon.id, &answers[0].0).await;
        assert!(!answer.is("not_found"), "{answer:?}");
        answer.promised().is_none()
    })
    .await;
}

#[tokio::test]
async fn an_older_row_of_a_drop_takes_no_slot_from_its_users() {
    let fixture = Fixture::new("d-drop-older").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Raised", 10, 10).await;
    let quantity = async |quantity: u32| {
        let set = format!(
            "UPDATE drops SET quantity = {quantity} WHERE id = {}",
            coupon.drop
        );
        world.sql.query(&set).await;
    };
    // The row of `drops` comes from a dump of that table alone, so no trigger changes the limits.
    for trigger in ["drops_before_update", "drops_after_update"] {
        world.sql.query(&format!("DROP TRIGGER {trigger}")).await;
    }
    quantity(5).await;
    let run = pass_ends(world, &[], (1, Status::Drift)).await;
    let torn = run
        .findings
        .iter()
        .find(|one| one.detail.contains("lower quantity"));
    assert!(torn.is_some_and(|one| one.needs_person), "{run:#?}");
    for (user, answer) in &answers {
        let again = fixture.api.claim(coupon.id, user).await;
        assert_eq!(again.promised(), answer.promised(), "{user}");
    }
    quantity(10).await;
    clean_pass(world, &coupon).await;
    assert_settled(world, &coupon, 10, 10, &answers).await;
}

#[tokio::test]
async fn a_lost_drop_unknown_to_redis_is_reported_and_no_day_is_created() {
    let fixture = Fixture::new("d-drop-lost-both").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held_of(&daily(5), 5).await;
    lose_drop(&fixture, &coupon).await;
    let redis = &world.redis;
    for name in ["meta", "users", "count", "free", "times", "waiting"] {
        let key = redis.of_drop(coupon.id, coupon.drop, name);
        redis.command::<()>(&["DEL", &key]).await;
    }
    for args in [&[][..], &["--deep"]] {
        let run = pass_ends(world, args, (1, Status::Drift)).await;
        let found: Vec<_> = run
            .findings
            .iter()
            .filter(|finding| finding.result == Outcome::Failed)
            .map(|finding| (finding.coupon_id, finding.drop_id, finding.needs_person))
            .map(|(coupon, drop, person)| (coupon.map(|c| c.0), drop.map(|d| d.0), person))
            .collect();
        let lost = (Some(coupon.id), Some(coupon.drop), true);
        assert!(found.contains(&lost), "{run:#?}");
    }
    let today = format!(
        "SELECT COUNT(*) FROM drops WHERE coupon_id = {} AND local_date = UTC_DATE()",
        coupon.id
    );
    assert_eq!(world.sql.number(&today).await, 0);
    eventually("a mail reports it", LIMIT, async || {
        subjects(world)
            .iter()
            .any(|subject| subject.contains("MySQL has lost drop"))
    })
    .await;
    let answer = fixture.api.claim(coupon.id, "stranger").await;
    assert!(!answer.is_accepted(), "{answer:?}");
    // An operator restores the row as OPERATIONS describes.
    let put_back = format!(
        "INSERT INTO drops (id, coupon_id, local_date, opens_at, closes_at, quantity) VALUES \
         ({}, {}, UTC_DATE(), UTC_DATE(), UTC_DATE() + INTERVAL 1 DAY, 5)",
        coupon.drop, coupon.id
    );
    world.sql.query(&put_back).await;
    world.pass().await;
    clean_pass(world, &coupon).await;
}

#[tokio::test]
async fn lost_slot_limits_and_the_rows_that_need_them_are_restored() {
    let fixture = Fixture::new("d-limits-lost").await;
    let api = &fixture.api;
    let world = &fixture.world;
    let coupon = api.open_coupon(10).await;
    assert_eq!(fixture.consumer.process.stop().await, 0);
    let answers = rush(&[api], coupon.id, &people(10), 10).await;
    let delete = format!("DELETE FROM slot_limits WHERE drop_id = {}", coupon.drop);
    world.sql.query(&delete).await;
    let consumer = world.consume().await;
    let open = "SELECT COUNT(*) FROM failed_claims WHERE resolved_at IS NULL";
    eventually("the consumer could not write any row", LIMIT, async || {
        world.sql.number(open).await == 10
    })
    .await;
    let run = world.pass().await;
    assert_eq!(run.status, Status::Repaired, "{run:#?}");
    assert_eq!(rows(world, coupon.drop).await.len(), 10);
    assert_settled(world, &coupon, 10, 10, &answers).await;
    clean_pass(world, &coupon).await;
    drop(consumer);
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

#[tokio::test]
async fn a_deep_pass_reports_a_lost_coupon_whose_drops_are_sealed() {
    let fixture = Fixture::new("d-coupon-sealed").await;
    let world = &fixture.world;
    let (coupon, _) = closed(&fixture, "Lost").await;
    fixture.api.open_coupon(5).await;
    until_sealed(&fixture, &coupon).await;
    let delete = format!("DELETE FROM coupons WHERE id = {}", coupon.id);
    lose(&fixture, &delete).await;
    let run = pass_ends(world, &["--deep"], (1, Status::Drift)).await;
    let of_coupon = |finding: &Finding| finding.coupon_id.map(|id| id.0) == Some(coupon.id);
    assert!(run.findings.iter().any(of_coupon), "{run:#?}");
}
